/* html: pieces of a page. */
#ifndef MOET_HTML_H
#define MOET_HTML_H

#include <stdio.h>

#include "../src/moet.h"

/* Text as text: the characters that HTML gives a meaning are escaped, for attributes too, and bytes that are no
 * UTF-8 are U+FFFD. NULL: nothing. */
void moet_html_text(FILE *to, const char *text);
/* The same of a list, which may break behind its commas. */
void moet_html_list(FILE *to, const char *text);
/* printf, escaped as a whole. */
__attribute__((format(printf, 2, 3))) void moet_html_format(FILE *to, const char *format, ...);

/* An SVG file as an element of the page: without its prolog, and with every id made the page's only one by `prefix`. */
void moet_html_svg(FILE *to, const char *svg, const char *prefix);

#endif
