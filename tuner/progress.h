/* progress: one line on stderr that says how far a long command is: redrawn on a terminal, otherwise a plain line at
 * most every five seconds. */
#ifndef MOET_PROGRESS_H
#define MOET_PROGRESS_H

#include <pthread.h>
#include <stdio.h>

#include "../src/moet.h"

typedef struct moet_progress {
    FILE *stream;
    bool is_terminal, is_drawn;
    double total;   /* units of work; 0: unknown */
    double skipped; /* units that took no time: they say nothing on what is left */
    int64_t begin_ns, drawn_ns;
    pthread_mutex_t lock; /* several threads may tell of their work */
} moet_progress;

void moet_progress_begin(moet_progress *progress, FILE *stream, double total);
/* `done` of the total, fractions included, with what is going on. Cheap: draws only when it is time to. */
__attribute__((format(printf, 3, 4))) void moet_progress_update(moet_progress *progress, double done,
                                                                const char *format, ...);
/* Units that were there already. */
void moet_progress_skip(moet_progress *progress, double units);
/* Takes a drawn line away, so that a message can be printed; the next update draws it again. */
void moet_progress_clear(moet_progress *progress);

/* After the last of them. */
void moet_progress_end(moet_progress *progress);

/* "45s", "12m05s", "3h20m" into text[MOET_TIME_TEXT_SIZE]. */
#define MOET_TIME_TEXT_SIZE 32
void moet_progress_time(double seconds, char *text);

#endif
