/* utf8.c: see utf8.h. */
#include "utf8.h"

#include <stdbool.h>

size_t moet_utf8_length(const char *bytes, size_t left)
{
    const unsigned char *text = (const unsigned char *)bytes;
    unsigned char lead = text[0];
    if (lead < 0x80) {
        return 1;
    }
    size_t length = lead >= 0xc2 && lead <= 0xdf ? 2 : (lead & 0xf0) == 0xe0 ? 3 : lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
    if (length == 0 || length > left) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (lead == 0xe0 && text[1] < 0xa0) || (lead == 0xf0 && text[1] < 0x90);
    bool beyond = (lead == 0xed && text[1] >= 0xa0) || (lead == 0xf4 && text[1] >= 0x90);
    return overlong || beyond ? 0 : length;
}

uint32_t moet_utf8_code(const char *text, size_t length)
{
    const unsigned char lead = (unsigned char)text[0];
    uint32_t code = length == 1 ? lead : lead & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        code = code << 6 | ((unsigned char)text[i] & 0x3f);
    }
    return code;
}

const char *moet_utf8_next(const char **text, size_t *length)
{
    const char *at = *text;
    *length = moet_utf8_length(at, SIZE_MAX); /* no character goes on behind the NUL */
    *text = at + (*length > 0 ? *length : 1);
    if (*length > 0) {
        return at;
    }
    *length = 3;
    return "\xef\xbf\xbd";
}
