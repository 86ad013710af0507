/* Loaded before all else, it sets a program's clock: by the seconds in the file CLOCK_AHEAD.
   Only the clock that can be set; the one that only ever goes on stays as it is. */

struct timespec { long seconds, nanoseconds; };
struct timeval { long seconds, microseconds; };
extern long syscall(long, ...), read(int, void *, unsigned long), atol(const char *);
extern int open(const char *, int, ...), close(int);
extern char *getenv(const char *);

#ifdef __aarch64__
enum { CLOCK_GETTIME = 113 };
#else
enum { CLOCK_GETTIME = 228 };
#endif

static long ahead(void) {
    char text[32] = {0};
    int file = open(getenv("CLOCK_AHEAD"), 0);
    read(file, text, sizeof text - 1);
    close(file);
    return atol(text);
}

int clock_gettime(int which, struct timespec *now) {
    long failed = syscall(CLOCK_GETTIME, which, now);
    if (!failed && (which == 0 || which == 5)) now->seconds += ahead();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    clock_gettime(0, &found);
    now->seconds = found.seconds;
    now->microseconds = found.nanoseconds / 1000;
    return 0;
}

long time(long *now) {
    struct timespec found;
    clock_gettime(0, &found);
    if (now) *now = found.seconds;
    return found.seconds;
}
