"""Imports: data of other programs, stored here once, with a report that compares both sides."""
