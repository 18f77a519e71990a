/* Preloaded into brokers: their wall clock is off by as many seconds as the file $OTTLA_CLOCKS/<pid> says. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long seconds_off(void) {
    const char *directory = getenv("OTTLA_CLOCKS");
    char path[4096];
    long seconds = 0;
    if (directory == NULL || snprintf(path, sizeof path, "%s/%d", directory, (int)getpid()) >= (int)sizeof path)
        return 0;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%ld", &seconds) != 1)
        seconds = 0;
    fclose(file);
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*next)(clockid_t, struct timespec *);
    if (next == NULL)
        next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = next(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME)
        time->tv_sec += seconds_off();
    return result;
}
