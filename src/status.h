/* status: how the library's own code reports an error. */
#ifndef MOET_STATUS_H
#define MOET_STATUS_H

#include "moet.h"

/* Formats the calling thread's last error and returns status, so that `return moet_fail(MOET_INVALID, ...)` reads
 * as one step. The message is one line: newlines become spaces. */
__attribute__((format(printf, 2, 3))) moet_status moet_fail(moet_status status, const char *format, ...);

/* Formats a reason[MOET_REASON_SIZE] (why a config is refused) and returns false. */
__attribute__((format(printf, 2, 3))) bool moet_refuse(char *reason, const char *format, ...);

/* Propagates an error out of a function that has nothing to clean up. */
#define MOET_TRY(call)                                                                                                 \
    do {                                                                                                               \
        moet_status moet_try_status = (call);                                                                          \
        if (moet_try_status != MOET_OK) return moet_try_status;                                                        \
    } while (0)

#define MOET_COUNT_OF(array) ((int32_t)(sizeof(array) / sizeof((array)[0])))

#endif
