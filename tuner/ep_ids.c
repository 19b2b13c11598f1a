/* ep_ids.c: see ep_ids.h. */
#include "ep_ids.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/file.h"
#include "npz.h"
#include "random.h"

/* k distinct experts for each token, by weights: the smallest of E exponential variates. */
moet_status moet_ep_ids_draw(const moet_ep_shape *point, int32_t rank, int32_t *ids)
{
    const int32_t E = point->experts, k = point->choices;
    double *weight = malloc((size_t)E * 2 * sizeof *weight), *key = weight + E;
    if (!weight) return moet_fail(MOET_NO_MEMORY, "ep: out of host memory");
    uint64_t order = 5, random = 100 + (uint64_t)rank;
    for (int32_t e = 0; e < E; e++) weight[e] = pow(e + 1, -point->zipf);
    for (int32_t e = E - 1; e > 0; e--) { /* Fisher and Yates */
        const int32_t other = (int32_t)(moet_random_next(&order) % (uint64_t)(e + 1));
        const double w = weight[e];
        weight[e] = weight[other];
        weight[other] = w;
    }
    for (int64_t t = 0; t < point->tokens; t++) {
        for (int32_t e = 0; e < E; e++) key[e] = -log(moet_random_uniform(&random)) / weight[e];
        for (int32_t c = 0; c < k; c++) {
            int32_t best = -1;
            for (int32_t e = 0; e < E; e++) {
                if (best < 0 || key[e] < key[best]) best = e;
            }
            key[best] = INFINITY;
            ids[t * k + c] = best;
        }
    }
    free(weight);
    return MOET_OK;
}

/* ---- from a file ---- */

static moet_status path_of(const char *dir, const moet_ep_shape *point, char *path, size_t size)
{
    char name[sizeof point->name + sizeof point->skew + 32];
    snprintf(name, sizeof name, "%s-%lld-%s.npy", point->name, (long long)point->tokens, point->skew);
    for (char *c = name; *c; c++) {
        if (*c == '/') *c = '_';
    }
    if (snprintf(path, size, "%s/%s", dir, name) >= (int)size)
        return moet_fail(MOET_INVALID, "--ids '%.100s...' is too long", dir);
    return MOET_OK;
}

/* array: of the whole file, its data owned by nobody. */
static moet_status take_ids(const moet_array *array, const char *path, const moet_ep_shape *point, int32_t rank,
                            int32_t ranks, int32_t *ids)
{
    const int64_t T = point->tokens, k = point->choices;
    char text[MOET_ARRAY_TEXT_SIZE];
    if (array->kind != 'i' && array->kind != 'u') {
        moet_array_type_text(array, text);
        return moet_fail(MOET_MALFORMED, "%s is of %s, must be of integers: ids.astype('int32')", path, text);
    }
    if (array->dimensions != 3 || array->shape[0] != ranks || array->shape[1] != T || array->shape[2] != k) {
        moet_array_shape_text(array, text);
        return moet_fail(MOET_MALFORMED, "%s is of shape %s, must be [ranks, tokens, choices], here [%d, %lld, %lld]",
                         path, text, ranks, (long long)T, (long long)k);
    }
    /* All ranks' choices are looked at, so that all ranks come to the same. */
    for (int64_t i = 0; i < array->elements; i++) {
        const int64_t id = moet_array_integer(array, i), of = i / (T * k), t = i / k % T;
        if (id < -1 || id >= point->experts)
            return moet_fail(MOET_MALFORMED, "%s: rank %lld, token %lld: expert %lld is none of %d, nor -1", path,
                             (long long)of, (long long)t, (long long)id, point->experts);
        for (int64_t j = i - i % k; j < i && id >= 0; j++) {
            if (moet_array_integer(array, j) == id)
                return moet_fail(MOET_MALFORMED, "%s: rank %lld, token %lld names expert %lld twice", path,
                                 (long long)of, (long long)t, (long long)id);
        }
        if (of == rank) ids[i - rank * T * k] = (int32_t)id;
    }
    return MOET_OK;
}

moet_status moet_ep_ids_read(const char *dir, const moet_ep_shape *point, int32_t rank, int32_t ranks, int32_t *ids)
{
    const size_t limit = (size_t)ranks * (size_t)(point->tokens * point->choices) * 8 + MOET_NPY_MAX_HEADER_BYTES;
    char path[1024], *bytes = NULL;
    size_t size_bytes = 0, offset = 0;
    moet_array array = {0};
    MOET_TRY(path_of(dir, point, path, sizeof path));
    MOET_TRY(moet_file_read(path, limit, &bytes, &size_bytes));
    moet_status status = moet_npy_parse_header(bytes, size_bytes, path, &array, &offset);
    if (status == MOET_OK && size_bytes - offset != array.size_bytes)
        status = moet_fail(MOET_MALFORMED, "%s has %zu bytes of data, its shape wants %zu", path, size_bytes - offset,
                           array.size_bytes);
    array.data = bytes + offset;
    if (status == MOET_OK) status = take_ids(&array, path, point, rank, ranks, ids);
    free(bytes);
    return status;
}
