/* status: how the library's own code reports an error. */
#ifndef MOET_STATUS_H
#define MOET_STATUS_H

#include "moet.h"

/* Formats the calling thread's last error. The message is one line: newlines become spaces. */
__attribute__((format(printf, 1, 2))) void moet_last_error_set(const char *format, ...);

/* moet_last_error_set(...), then status, so that `return moet_fail(MOET_INVALID, ...)` reads as one step. No function:
 * the compiler is to see that the result is no MOET_OK, or it takes results by out-pointer for maybe unset after an
 * error that was checked. */
#define moet_fail(status, ...)                                                                                         \
    __extension__({                                                                                                    \
        moet_last_error_set(__VA_ARGS__);                                                                              \
        (moet_status)(status);                                                                                         \
    })

/* Formats a reason[MOET_REASON_SIZE] (why a config is refused) and returns false. */
__attribute__((format(printf, 2, 3))) bool moet_refuse(char *reason, const char *format, ...);

/* Propagates an error out of a function that has nothing to clean up. */
#define MOET_TRY(call)                                                                                                 \
    do {                                                                                                               \
        moet_status moet_try_status = (call);                                                                          \
        if (moet_try_status != MOET_OK) return moet_try_status;                                                        \
    } while (0)

/* Refuses NULL for what a public function must have; the argument is one of its parameters. */
#define MOET_NEED(argument)                                                                                            \
    do {                                                                                                               \
        if (!(argument)) return moet_fail(MOET_INVALID, "%s: %s is NULL", __func__, #argument);                        \
    } while (0)

#define MOET_COUNT_OF(array) ((int32_t)(sizeof(array) / sizeof((array)[0])))

#endif
