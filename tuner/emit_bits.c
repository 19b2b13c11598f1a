/* One walk over the store, whose rows come workload by workload; each is judged when its last row has come. */
#include "emit_bits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/family.h"

typedef struct bits_trial {
    int64_t id;
    bool is_reference;
    char bit_class[MOET_SHA256_TEXT_SIZE];
} bits_trial;

typedef struct bits_finder {
    const char *family; /* the reference */
    moet_emit_bits found;
    /* the workload that is being read */
    char *device_key, *problem_key;
    int64_t workload_id;
    int32_t count, capacity;
    bits_trial *trials;
} bits_finder;

static moet_status out_of_memory(void) { return moet_fail(MOET_NO_MEMORY, "emit: out of memory"); }

static bool is_of_family(const char *config, const char *name)
{
    char own[64];
    snprintf(own, sizeof own, "%.*s", (int)strcspn(config, ":"), config);
    const moet_family *family = moet_family_find(own);
    return strcmp(own, name) == 0 || (family != NULL && family->gemm != NULL && strcmp(family->gemm->name, name) == 0);
}

/* Behind the hashes: the seed, with which inputs were made, and of which scales they were. */
static const char *seed_of(const char *bit_class)
{
    const char *dash = strchr(bit_class, '-');
    return dash != NULL ? dash : "";
}

/* What the family computed on a trial's inputs; NULL where nobody of it ran on these, or two disagree. */
static const char *find_reference(const bits_finder *f, const bits_trial *trial)
{
    const char *reference = NULL;
    for (int32_t i = 0; i < f->count; i++) {
        const bits_trial *t = &f->trials[i];
        if (!t->is_reference || strcmp(seed_of(t->bit_class), seed_of(trial->bit_class)) != 0) continue;
        if (reference != NULL && strcmp(reference, t->bit_class) != 0) return NULL;
        reference = t->bit_class;
    }
    return reference;
}

static moet_status keep(moet_emit_bits *found, int64_t trial_id)
{
    if (found->count == found->capacity) {
        const int64_t capacity = found->capacity > 0 ? 2 * found->capacity : 256;
        int64_t *grown = realloc(found->trials, (size_t)capacity * sizeof *grown);
        if (grown == NULL) return out_of_memory();
        found->trials = grown;
        found->capacity = capacity;
    }
    found->trials[found->count++] = trial_id;
    return MOET_OK;
}

/* Judges the workload that has been read. */
static moet_status end_workload(bits_finder *f)
{
    for (int32_t i = 0; i < f->count; i++) {
        const char *reference = find_reference(f, &f->trials[i]);
        if (reference != NULL && strcmp(reference, f->trials[i].bit_class) == 0)
            MOET_TRY(keep(&f->found, f->trials[i].id));
    }
    f->count = 0;
    return MOET_OK;
}

static moet_status begin_workload(bits_finder *f, const moet_store_trial_row *row)
{
    free(f->device_key);
    free(f->problem_key);
    f->device_key = strdup(row->device_key);
    f->problem_key = strdup(row->problem_key);
    f->workload_id = row->workload_id;
    return f->device_key != NULL && f->problem_key != NULL ? MOET_OK : out_of_memory();
}

static moet_status visit(void *context, const moet_store_trial_row *row)
{
    bits_finder *f = context;
    if (!row->is_current || row->bit_class[0] == '\0') return MOET_OK;
    if (f->device_key == NULL || f->workload_id != row->workload_id || strcmp(f->device_key, row->device_key) != 0 ||
        strcmp(f->problem_key, row->problem_key) != 0) {
        MOET_TRY(end_workload(f));
        MOET_TRY(begin_workload(f, row));
    }
    if (f->count == f->capacity) {
        const int32_t capacity = f->capacity > 0 ? 2 * f->capacity : 256;
        bits_trial *grown = realloc(f->trials, (size_t)capacity * sizeof *grown);
        if (grown == NULL) return out_of_memory();
        f->trials = grown;
        f->capacity = capacity;
    }
    bits_trial *trial = &f->trials[f->count++];
    *trial = (bits_trial){.id = row->trial_id, .is_reference = is_of_family(row->config, f->family)};
    snprintf(trial->bit_class, sizeof trial->bit_class, "%s", row->bit_class);
    return MOET_OK;
}

static moet_status check_name(const char *name)
{
    char names[512] = "";
    size_t used = 0;
    if (strcmp(name, MOET_BITS_SEQ) == 0 || strcmp(name, MOET_BITS_SEQ_FAMILY) == 0) return MOET_OK;
    for (int32_t i = 0; moet_families[i] != NULL; i++) {
        const moet_family *family = moet_families[i];
        if (strcmp(family->name, name) == 0 && family->gemm == NULL) return MOET_OK;
        if (family->gemm == NULL && used < sizeof names)
            used += (size_t)snprintf(names + used, sizeof names - used, ", %s", family->name);
    }
    return moet_fail(MOET_INVALID, "--bits: no bit class '%.40s'; the classes are " MOET_BITS_SEQ "%s", name, names);
}

static int compare_ids(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

moet_status moet_emit_bits_find(moet_store *store, const char *device, const char *name, moet_emit_bits *bits)
{
    MOET_TRY(check_name(name));
    bits_finder f = {.family = strcmp(name, MOET_BITS_SEQ) == 0 ? MOET_BITS_SEQ_FAMILY : name};
    const moet_store_filter filter = {.device_key = device, .ok_only = true};
    moet_status status = moet_store_each_trial(store, &filter, visit, &f);
    if (status == MOET_OK) status = end_workload(&f);
    free(f.device_key);
    free(f.problem_key);
    free(f.trials);
    if (status != MOET_OK) {
        moet_emit_bits_release(&f.found);
        return status;
    }
    if (f.found.count > 0) qsort(f.found.trials, (size_t)f.found.count, sizeof *f.found.trials, compare_ids);
    *bits = f.found;
    return MOET_OK;
}

void moet_emit_bits_release(moet_emit_bits *bits)
{
    free(bits->trials);
    *bits = (moet_emit_bits){0};
}

bool moet_emit_bits_has(const moet_emit_bits *bits, int64_t trial_id)
{
    return bits->count > 0 &&
           bsearch(&trial_id, bits->trials, (size_t)bits->count, sizeof *bits->trials, compare_ids) != NULL;
}
