/* html.c: see html.h. */
#include "html.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

static void put_text(FILE *to, const char *text, const char *end)
{
    size_t length;
    while (text < end) {
        const char *at = moet_utf8_next(&text, &length);
        switch (*at) {
        case '&':
            fputs("&amp;", to);
            break;
        case '<':
            fputs("&lt;", to);
            break;
        case '>':
            fputs("&gt;", to);
            break;
        case '"':
            fputs("&quot;", to);
            break;
        case '\'':
            fputs("&#39;", to);
            break;
        default:
            fwrite(at, 1, length, to);
        }
    }
}

void moet_html_text(FILE *to, const char *text)
{
    if (text != NULL) {
        put_text(to, text, text + strlen(text));
    }
}

void moet_html_list(FILE *to, const char *text)
{
    while (text != NULL && *text != '\0') {
        const char *comma = strchr(text, ','), *end = comma != NULL ? comma + 1 : text + strlen(text);
        put_text(to, text, end);
        fputs(comma != NULL ? "<wbr>" : "", to);
        text = end;
    }
}

void moet_html_format(FILE *to, const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) >= 0) {
        moet_html_text(to, text);
        free(text);
    }
    va_end(args);
}

void moet_html_svg(FILE *to, const char *svg, const char *prefix)
{
    /* What an id is behind, where it is given and where it is referred to. */
    static const char *const marks[] = {" id=\"", " id='", "href=\"#", "href='#", "url(#"};
    const char *at = strstr(svg, "<svg");
    while (at != NULL && *at != '\0') {
        size_t found = 0;
        for (size_t i = 0; i < sizeof marks / sizeof marks[0] && found == 0; i++) {
            found = strncmp(at, marks[i], strlen(marks[i])) == 0 ? strlen(marks[i]) : 0;
        }
        if (found > 0) {
            fwrite(at, 1, found, to);
            fprintf(to, "%s-", prefix);
            at += found;
        } else {
            fputc(*at++, to);
        }
    }
}
