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

/* A program that gets an environment of its own, as PostgreSQL does, gets the shifted clock too. */
int execve(const char *program, char *const arguments[], char *const environment[])
{
    size_t count = 0, kept = 0;
    while (environment && environment[count])
        count++;
    /* On the stack: between fork and exec, another thread may hold the lock of malloc. */
    char *shifted[count + 2];
    for (size_t each = 0; each < count; each++)
        if (strncmp(environment[each], "LD_PRELOAD=", 11) != 0)
            shifted[kept++] = environment[each];
    shifted[kept++] = "LD_PRELOAD=" LIBRARY;
    shifted[kept] = NULL;
    return REAL(execve)(program, arguments, shifted);
}
