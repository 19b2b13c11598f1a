#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last_error[1024];

const char *moet_version(void) { return MOET_VERSION_TEXT; }

const char *moet_status_name(moet_status status)
{
    static const char *const names[] = {
#define MOET_X(name, text) #name,
        MOET_STATUS_TABLE(MOET_X)
#undef MOET_X
    };
    return (unsigned)status < MOET_STATUS_COUNT ? names[status] : "UNKNOWN";
}

const char *moet_last_error(void) { return last_error; }

static void one_line(char *text)
{
    for (; *text; text++) {
        if (*text == '\n' || *text == '\r') *text = ' ';
    }
}

void moet_last_error_set(const char *format, ...)
{
    /* Formatted aside: arguments may point into the last error. */
    char text[sizeof last_error];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    one_line(text);
    memcpy(last_error, text, sizeof text);
}

bool moet_refuse(char *reason, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(reason, MOET_REASON_SIZE, format, args);
    va_end(args);
    one_line(reason);
    return false;
}
