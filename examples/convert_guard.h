/* convert_guard.h - whatever happens, no partial file stays behind. C99 with POSIX.
 *
 * Signals, exit() from deep inside (out of memory) and the limit of the file size all end with the temporary files
 * removed and the old output as it was. */
#ifndef SPINFER_EXAMPLES_CONVERT_GUARD_H
#define SPINFER_EXAMPLES_CONVERT_GUARD_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "common.h"
#include "safetensors.h"

static char current_item[128];        /* for the message */
static char *volatile unnamed_output; /* complete, but without its final name yet, or NULL */

/* A name for people: as much as fits, without control characters, which a terminal might obey. */
static inline void printable(const char *name, char *text, size_t size)
{
    size_t i;
    for (i = 0; i + 1 < size && name[i]; i++)
        text[i] = (unsigned char)name[i] < 0x20 || name[i] == 0x7f ? '?' : name[i];
    text[i] = 0;
}

static inline void remove_temporaries(void)
{
    safetensors_remove_temporaries();
    if (unnamed_output) unlink(unnamed_output);
}

static inline void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0) return; /* nothing better to do in a signal handler */
}

/* Only async-signal-safe calls. */
static inline void on_signal(int number)
{
    remove_temporaries();
    say("\nconvert: interrupted");
    if (current_item[0]) {
        say(" at ");
        say(current_item);
    }
    say("; nothing was written\n");
    signal(number, SIG_DFL);
    raise(number);
}

static inline void guard(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action, old;
    size_t           i;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    for (i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        sigaction(numbers[i], &action, &old);
        if (numbers[i] == SIGHUP && old.sa_handler == SIG_IGN) signal(SIGHUP, SIG_IGN); /* nohup */
    }
    signal(SIGXFSZ, SIG_IGN); /* beyond the limit of the file size, write() shall fail like on a full disk */
    atexit(remove_temporaries);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static inline int write_all(int file, const void *memory, size_t bytes)
{
    const char *at = (const char *)memory;
    while (bytes) {
        const ssize_t written = write(file, at, bytes);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return 0;
        at += written;
        bytes -= (size_t)written;
    }
    return 1;
}

#endif /* SPINFER_EXAMPLES_CONVERT_GUARD_H */
