/* npz.c: see npz.h. The .npy format: numpy.lib.format, https://numpy.org/doc/stable/reference/generated/
 * numpy.lib.format.html */
#include "npz.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef MOET_MINIZIP
#include <minizip/unzip.h>
#endif

#define WHAT_SIZE 512
#define MAX_ARRAY_BYTES (1ULL << 40)

/* ---- arrays ---- */

void moet_array_release(moet_array *array)
{
    free(array->data);
    *array = (moet_array){0};
}

void moet_array_shape_text(const moet_array *array, char *text)
{
    size_t used = (size_t)snprintf(text, MOET_ARRAY_TEXT_SIZE, "[");
    for (int32_t i = 0; i < array->dimensions; i++) {
        used += (size_t)snprintf(text + used, MOET_ARRAY_TEXT_SIZE - used, "%s%lld", i > 0 ? ", " : "",
                                 (long long)array->shape[i]);
    }
    snprintf(text + used, MOET_ARRAY_TEXT_SIZE - used, "]");
}

static const struct {
    char kind;
    const char *name;
} kinds[] = {{'b', "bool"}, {'i', "int"}, {'u', "uint"}, {'f', "float"}, {'V', "raw"}};

/* NULL for a kind that is not served. */
static const char *kind_name(char kind)
{
    for (int32_t i = 0; i < MOET_COUNT_OF(kinds); i++) {
        if (kinds[i].kind == kind) {
            return kinds[i].name;
        }
    }
    return NULL;
}

void moet_array_type_text(const moet_array *array, char *text)
{
    const char *name = kind_name(array->kind);
    snprintf(text, MOET_ARRAY_TEXT_SIZE, "%s%d", name != NULL ? name : "?", 8 * array->item_bytes);
}

int64_t moet_array_integer(const moet_array *array, int64_t index)
{
    uint64_t bits = 0;
    const int32_t unused_bits = 64 - 8 * array->item_bytes;
    memcpy(&bits, (const char *)array->data + index * array->item_bytes, (size_t)array->item_bytes);
    if (array->kind == 'i') {
        return (int64_t)(bits << unused_bits) >> unused_bits;
    }
    return bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
}

/* ---- the header: a Python dict of three members ---- */

typedef struct header_text {
    const char *at, *end;
    const char *what;
} header_text;

static void skip_space(header_text *h)
{
    while (h->at < h->end && (*h->at == ' ' || *h->at == '\n' || *h->at == '\t')) {
        h->at++;
    }
}

/* Whether the next thing is this character, which is then passed. */
static bool take(header_text *h, char character)
{
    skip_space(h);
    if (h->at == h->end || *h->at != character) {
        return false;
    }
    h->at++;
    return true;
}

static moet_status fail_header(const header_text *h)
{
    return moet_fail(MOET_MALFORMED, "%s: its .npy header is malformed", h->what);
}

/* 'text' or "text" without escapes, into text[size]. */
static bool take_string(header_text *h, char *text, size_t size)
{
    const char quote = take(h, '\'') ? '\'' : '"';
    if (quote == '"' && !take(h, '"')) {
        return false;
    }
    const char *end = memchr(h->at, quote, (size_t)(h->end - h->at));
    if (end == NULL || (size_t)(end - h->at) >= size) {
        return false;
    }
    memcpy(text, h->at, (size_t)(end - h->at));
    text[end - h->at] = '\0';
    h->at = end + 1;
    return true;
}

static bool take_word(header_text *h, const char *word)
{
    const size_t length = strlen(word);
    skip_space(h);
    if ((size_t)(h->end - h->at) < length || memcmp(h->at, word, length) != 0) {
        return false;
    }
    h->at += length;
    return true;
}

static bool take_number(header_text *h, int64_t *number)
{
    int64_t value = 0;
    skip_space(h);
    const char *begin = h->at;
    for (; h->at < h->end && *h->at >= '0' && *h->at <= '9'; h->at++) {
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *h->at - '0', &value)) {
            return false;
        }
    }
    *number = value;
    return h->at > begin;
}

/* '<f4': byte order, kind, bytes. */
static moet_status read_type(header_text *h, moet_array *array)
{
    char descr[16];
    if (take(h, '[')) {
        return moet_fail(MOET_MALFORMED, "%s is a structured array, must be a plain one", h->what);
    }
    if (!take_string(h, descr, sizeof descr)) {
        return fail_header(h);
    }
    const bool has_order = descr[0] != '\0' && strchr("<>|=", descr[0]) != NULL;
    const char *kind = descr + has_order;
    header_text size = {.at = kind + (kind[0] != '\0'), .end = descr + strlen(descr)};
    int64_t item_bytes = 0;
    const bool is_known = kind_name(kind[0]) != NULL && take_number(&size, &item_bytes) && size.at == size.end &&
                          item_bytes >= 1 && item_bytes <= (kind[0] == 'f' || kind[0] == 'V' ? 16 : 8);
    if (!is_known) {
        return moet_fail(MOET_MALFORMED, "%s is of type '%s', must be of integers, floating point or raw bytes",
                         h->what, descr);
    }
    if (descr[0] == '>' && item_bytes > 1) {
        return moet_fail(MOET_MALFORMED, "%s is big-endian ('%s'), must be little-endian", h->what, descr);
    }
    array->kind = kind[0];
    array->item_bytes = (int32_t)item_bytes;
    return MOET_OK;
}

static moet_status read_order(header_text *h)
{
    if (take_word(h, "True")) {
        return moet_fail(MOET_MALFORMED, "%s is in Fortran order, must be in C order: numpy.ascontiguousarray",
                         h->what);
    }
    return take_word(h, "False") ? MOET_OK : fail_header(h);
}

static moet_status read_shape(header_text *h, moet_array *array)
{
    if (!take(h, '(')) {
        return fail_header(h);
    }
    array->dimensions = 0;
    for (bool is_last = false; !take(h, ')');) {
        int64_t length = 0;
        if (is_last || !take_number(h, &length)) {
            return fail_header(h);
        }
        if (array->dimensions == MOET_NPY_MAX_DIMENSIONS) {
            return moet_fail(MOET_MALFORMED, "%s has more than %d dimensions", h->what, MOET_NPY_MAX_DIMENSIONS);
        }
        array->shape[array->dimensions++] = length;
        is_last = !take(h, ',');
    }
    return MOET_OK;
}

static moet_status read_members(header_text *h, moet_array *array)
{
    bool has_type = false, has_order = false, has_shape = false;
    if (!take(h, '{')) {
        return fail_header(h);
    }
    for (bool is_last = false; !take(h, '}');) {
        char key[16];
        if (is_last || !take_string(h, key, sizeof key) || !take(h, ':')) {
            return fail_header(h);
        }
        if (strcmp(key, "descr") == 0) {
            MOET_TRY(read_type(h, array));
            has_type = true;
        } else if (strcmp(key, "fortran_order") == 0) {
            MOET_TRY(read_order(h));
            has_order = true;
        } else if (strcmp(key, "shape") == 0) {
            MOET_TRY(read_shape(h, array));
            has_shape = true;
        } else {
            return fail_header(h);
        }
        is_last = !take(h, ',');
    }
    skip_space(h);
    return has_type && has_order && has_shape && h->at == h->end ? MOET_OK : fail_header(h);
}

static moet_status count_elements(const char *what, moet_array *array)
{
    int64_t elements = 1, size_bytes = 0;
    bool is_empty = false, is_large = false;
    for (int32_t i = 0; i < array->dimensions; i++) {
        is_empty = is_empty || array->shape[i] == 0;
        is_large = is_large || __builtin_mul_overflow(elements, array->shape[i], &elements);
    }
    if (is_empty) {
        elements = 0;
    } else if (is_large || __builtin_mul_overflow(elements, array->item_bytes, &size_bytes)) {
        return moet_fail(MOET_MALFORMED, "%s is too large", what);
    }
    array->elements = elements;
    array->size_bytes = (size_t)size_bytes;
    return MOET_OK;
}

moet_status moet_npy_parse_header(const void *bytes, size_t size_bytes, const char *what, moet_array *array,
                                  size_t *data_offset)
{
    static const char magic[] = "\x93NUMPY";
    const uint8_t *b = bytes;
    moet_array parsed = {0};
    if (size_bytes < 10 || memcmp(b, magic, 6) != 0) {
        return moet_fail(MOET_MALFORMED, "%s is no .npy file, or is cut off", what);
    }
    if ((b[6] != 1 && b[6] != 2) || b[7] != 0) {
        return moet_fail(MOET_MALFORMED, "%s is of .npy format %d.%d, must be 1.0 or 2.0", what, b[6], b[7]);
    }
    const size_t begin = b[6] == 1 ? 10 : 12; /* behind a length of two or four bytes */
    size_t length = 0;
    for (size_t i = 8; i < begin && i < size_bytes; i++) {
        length |= (size_t)b[i] << 8 * (i - 8);
    }
    if (length > MOET_NPY_MAX_HEADER_BYTES) {
        return moet_fail(MOET_MALFORMED, "%s has a .npy header of %zu bytes, more than %d", what, length,
                         MOET_NPY_MAX_HEADER_BYTES);
    }
    if (begin + length > size_bytes) {
        return moet_fail(MOET_MALFORMED, "%s is cut off in its .npy header", what);
    }
    header_text text = {.at = (const char *)b + begin, .end = (const char *)b + begin + length, .what = what};
    MOET_TRY(read_members(&text, &parsed));
    MOET_TRY(count_elements(what, &parsed));
    *array = parsed;
    *data_offset = begin + length;
    return MOET_OK;
}

/* ---- the archive ---- */

bool moet_npz_has(const moet_npz *npz, const char *name)
{
    for (int32_t i = 0; i < npz->count; i++) {
        if (strcmp(npz->names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

#ifdef MOET_MINIZIP

static const char suffix[] = ".npy";

/* minizip does not say why it cannot open a file. */
static moet_status check_file(const char *path)
{
    char begin[4] = "";
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return moet_fail(errno == ENOENT ? MOET_NOT_FOUND : MOET_IO, "%s: %s", path, strerror(errno));
    }
    const size_t count = fread(begin, 1, sizeof begin, file);
    const bool failed = ferror(file) != 0;
    const int reason = errno;
    fclose(file);
    if (failed) {
        return moet_fail(MOET_IO, "%s: %s", path, strerror(reason));
    }
    if (count < sizeof begin || (memcmp(begin, "PK\3\4", 4) != 0 && memcmp(begin, "PK\5\6", 4) != 0)) {
        return moet_fail(MOET_MALFORMED, "%s is no .npz file (a zip archive, as numpy.savez writes)", path);
    }
    return MOET_OK;
}

static moet_status list_names(moet_npz *npz)
{
    unz_global_info64 info;
    if (unzGetGlobalInfo64(npz->zip, &info) != UNZ_OK || info.number_entry > MOET_NPZ_MAX_ARRAYS) {
        return moet_fail(MOET_MALFORMED, "%s: its directory is damaged, or has more than %d arrays", npz->path,
                         MOET_NPZ_MAX_ARRAYS);
    }
    npz->names = calloc(info.number_entry + 1, sizeof *npz->names);
    if (npz->names == NULL) {
        return moet_fail(MOET_NO_MEMORY, "%s: no memory for its directory", npz->path);
    }
    int code = info.number_entry > 0 ? unzGoToFirstFile(npz->zip) : UNZ_END_OF_LIST_OF_FILE;
    for (; code == UNZ_OK && npz->count < (int32_t)info.number_entry; code = unzGoToNextFile(npz->zip)) {
        char name[MOET_NPZ_NAME_SIZE + sizeof suffix] = "";
        unz_file_info64 entry;
        code = unzGetCurrentFileInfo64(npz->zip, &entry, name, sizeof name - 1, NULL, 0, NULL, 0);
        if (code != UNZ_OK) {
            break;
        }
        char *end = strrchr(name, '.');
        if (end != NULL && strcmp(end, suffix) == 0) {
            *end = '\0';
        }
        snprintf(npz->names[npz->count++], MOET_NPZ_NAME_SIZE, "%.*s", MOET_NPZ_NAME_SIZE - 1, name);
    }
    if (code != UNZ_OK && code != UNZ_END_OF_LIST_OF_FILE) {
        return moet_fail(MOET_MALFORMED, "%s: its directory is damaged", npz->path);
    }
    return MOET_OK;
}

moet_status moet_npz_open(const char *path, moet_npz *npz)
{
    MOET_TRY(check_file(path));
    moet_npz opened = {.path = path, .zip = unzOpen64(path)};
    if (opened.zip == NULL) {
        return moet_fail(MOET_MALFORMED, "%s: a zip archive without its end: the file is cut off", path);
    }
    moet_status status = list_names(&opened);
    if (status != MOET_OK) {
        moet_npz_close(&opened);
        return status;
    }
    *npz = opened;
    return MOET_OK;
}

void moet_npz_close(moet_npz *npz)
{
    if (npz->zip != NULL) {
        unzClose(npz->zip);
    }
    free(npz->names);
    *npz = (moet_npz){0};
}

/* The open entry's bytes, into bytes[size_bytes]; false where it ends early or is damaged. */
static bool read_entry(const moet_npz *npz, char *bytes, size_t size_bytes)
{
    const size_t piece_bytes = 1 << 30;
    size_t used = 0;
    while (used < size_bytes) {
        const size_t left = size_bytes - used;
        const int got = unzReadCurrentFile(npz->zip, bytes + used, (unsigned)(left < piece_bytes ? left : piece_bytes));
        if (got <= 0) {
            return false;
        }
        used += (size_t)got;
    }
    return true;
}

moet_status moet_npz_read(const moet_npz *npz, const char *name, moet_array *array)
{
    char what[WHAT_SIZE], file[MOET_NPZ_NAME_SIZE + sizeof suffix];
    unz_file_info64 entry;
    moet_array parsed = {0};
    size_t offset = 0;
    snprintf(what, sizeof what, "%.400s: array %.60s", npz->path, name);
    snprintf(file, sizeof file, "%.*s%s", MOET_NPZ_NAME_SIZE - 1, name, suffix);
    if (unzLocateFile(npz->zip, file, 1) != UNZ_OK) {
        return moet_fail(MOET_NOT_FOUND, "%s is not in the file", what);
    }
    if (unzGetCurrentFileInfo64(npz->zip, &entry, NULL, 0, NULL, 0, NULL, 0) != UNZ_OK ||
        unzOpenCurrentFile(npz->zip) != UNZ_OK) {
        return moet_fail(MOET_MALFORMED, "%s cannot be unpacked: the file is damaged", what);
    }
    char *bytes = entry.uncompressed_size <= MAX_ARRAY_BYTES ? malloc(entry.uncompressed_size + 1) : NULL;
    if (bytes == NULL) {
        unzCloseCurrentFile(npz->zip);
        return moet_fail(MOET_NO_MEMORY, "%s: no memory for %llu bytes", what,
                         (unsigned long long)entry.uncompressed_size);
    }
    const bool complete = read_entry(npz, bytes, entry.uncompressed_size);
    const bool intact = unzCloseCurrentFile(npz->zip) == UNZ_OK; /* compares checksums */
    moet_status status = complete && intact
                             ? moet_npy_parse_header(bytes, entry.uncompressed_size, what, &parsed, &offset)
                             : moet_fail(MOET_MALFORMED, "%s is damaged or cut off", what);
    if (status == MOET_OK && entry.uncompressed_size - offset != parsed.size_bytes) {
        status = moet_fail(MOET_MALFORMED, "%s has %llu bytes of data, its shape wants %zu", what,
                           (unsigned long long)(entry.uncompressed_size - offset), parsed.size_bytes);
    }
    if (status != MOET_OK) {
        free(bytes);
        return status;
    }
    memmove(bytes, bytes + offset, parsed.size_bytes); /* to where malloc aligned it */
    parsed.data = bytes;
    *array = parsed;
    return MOET_OK;
}

#else

moet_status moet_npz_open(const char *path, moet_npz *npz)
{
    (void)npz;
    return moet_fail(MOET_UNSUPPORTED,
                     "%s: this moe-tune was built without minizip and reads no .npz files: "
                     "apt install libminizip-dev zlib1g-dev and build again",
                     path);
}

void moet_npz_close(moet_npz *npz) { *npz = (moet_npz){0}; }

moet_status moet_npz_read(const moet_npz *npz, const char *name, moet_array *array)
{
    (void)array;
    return moet_fail(MOET_UNSUPPORTED, "%s: array %s: this moe-tune was built without minizip", npz->path, name);
}

#endif
