/* html.c: see html.h. */
#include "html.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void moet_html_text(FILE *to, const char *text)
{
    for (; text != NULL && *text != '\0'; text++) {
        switch (*text) {
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
            fputc(*text, to);
        }
    }
}

void moet_html_list(FILE *to, const char *text)
{
    while (text != NULL && *text != '\0') {
        char part[64];
        size_t length = strcspn(text, ",");
        length += text[length] == ',';
        length = length < sizeof part ? length : sizeof part - 1;
        snprintf(part, sizeof part, "%.*s", (int)length, text);
        moet_html_text(to, part);
        fputs(part[length - 1] == ',' ? "<wbr>" : "", to);
        text += length;
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
