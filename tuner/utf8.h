/* utf8: texts of anybody's files and names, in what has to be UTF-8. */
#ifndef MOET_UTF8_H
#define MOET_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Length of the UTF-8 character at text (no overlong forms, no surrogates: RFC 3629), 0 if it is none. */
size_t moet_utf8_length(const char *text, size_t left);

/* Its code; length as above. */
uint32_t moet_utf8_code(const char *text, size_t length);

/* The next character of a text that ends with NUL, and passes over it: *length bytes, of a byte that is in no UTF-8
 * character those of U+FFFD. */
const char *moet_utf8_next(const char **text, size_t *length);

#endif
