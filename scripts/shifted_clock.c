/* Preloaded by scripts/test-clock: shift the wall clock by OFFSET seconds. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = REAL(clock_gettime)(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += OFFSET;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    int result = REAL(gettimeofday)(now, zone);
    if (result == 0)
        now->tv_sec += OFFSET;
    return result;
}

time_t time(time_t *now)
{
    time_t result = REAL(time)(NULL) + OFFSET;
    if (now)
        *now = result;
    return result;
}

/* A program started with a new environment, as PostgreSQL is, gets the shifted clock too. */
int execve(const char *program, char *const arguments[], char *const environment[])
{
    size_t count = 0, length = 0;
    while (environment && environment[count])
        count++;
    /* On the stack: between fork and exec, another thread may hold the lock of malloc. */
    char *shifted[count + 2];
    for (size_t i = 0; i < count; i++)
        if (strncmp(environment[i], "LD_PRELOAD=", 11) != 0)
            shifted[length++] = environment[i];
    shifted[length++] = "LD_PRELOAD=" LIBRARY;
    shifted[length] = NULL;
    return REAL(execve)(program, arguments, shifted);
}
