"""Shut a process in, on Linux, with what the kernel gives to everybody. The door to it is `autograder.sandbox`."""
