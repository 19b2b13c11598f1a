/* record: the routings that production met and the table did not know, in memory that moet_record_start allocated: a
 * hash table of entries with open addressing, whose counts lie one behind the other in a pool. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "record.h"

/* What a line of a workload file says of a launch; two launches with the same are one entry. */
typedef struct record_key {
    int64_t tokens;
    int32_t op, experts, hidden, inter;
} record_key;

typedef struct record_entry {
    record_key key;
    uint64_t hash;
    size_t counts; /* index into the pool, of key.experts numbers */
    int64_t launches;
} record_entry;

/* Guarded by the handle's record_mutex. */
struct moet_recorder {
    int32_t capacity, count;
    int64_t dropped;
    record_entry *entries; /* [capacity] */
    int32_t *slots;        /* [slot_mask + 1]: 1 + index of an entry, 0 none; at most half are taken */
    uint32_t slot_mask;
    int32_t *pool; /* [capacity * MOET_MAX_EXPERTS]; the system gives its pages when they are first written */
    size_t pool_used;
};

static void recorder_free(moet_recorder *recorder)
{
    if (!recorder) return;
    free(recorder->entries);
    free(recorder->slots);
    free(recorder->pool);
    free(recorder);
}

static moet_recorder *recorder_make(int32_t capacity)
{
    moet_recorder *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    uint32_t slots = 2;
    while (slots < 2 * (uint32_t)capacity) slots *= 2;
    r->capacity = capacity;
    r->slot_mask = slots - 1;
    r->entries = calloc((size_t)capacity, sizeof *r->entries);
    r->slots = calloc(slots, sizeof *r->slots);
    r->pool = malloc((size_t)capacity * MOET_MAX_EXPERTS * sizeof *r->pool);
    if (r->entries && r->slots && r->pool) return r;
    recorder_free(r);
    return NULL;
}

/* Puts another recorder, or none, in the place of the handle's, which is freed. */
static void recorder_replace(moet_handle *handle, moet_recorder *recorder)
{
    pthread_mutex_lock(&handle->record_mutex);
    moet_recorder *old = handle->recorder;
    handle->recorder = recorder;
    atomic_store_explicit(&handle->is_recording, recorder != NULL, memory_order_relaxed);
    pthread_mutex_unlock(&handle->record_mutex);
    recorder_free(old);
}

moet_status moet_record_start(moet_handle *handle, int32_t capacity)
{
    MOET_NEED(handle);
    if (capacity < 1 || capacity > MOET_MAX_RECORDS)
        return moet_fail(MOET_INVALID, "moet_record_start: capacity is %d, must be 1 to %d", capacity,
                         MOET_MAX_RECORDS);
    moet_recorder *recorder = recorder_make(capacity);
    if (!recorder) return moet_fail(MOET_NO_MEMORY, "moet_record_start: no memory for %d routings", capacity);
    recorder_replace(handle, recorder);
    return MOET_OK;
}

void moet_record_stop(moet_handle *handle)
{
    if (handle) recorder_replace(handle, NULL);
}

/* FNV-1a over 32-bit words, of which the bytes may be any type's: http://www.isthe.com/chongo/tech/comp/fnv/ */
static uint64_t hash_words(uint64_t hash, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, (const char *)bytes + i * sizeof word, sizeof word);
        hash = (hash ^ word) * 0x100000001b3ULL;
    }
    return hash ^ hash >> 32; /* the product moves nothing to lower bits, which choose the slot */
}

void moet_record_add(const moet_plan *plan, const int32_t *counts, const moet_routing *routing, int64_t tokens)
{
    moet_handle *handle = plan->handle;
    const moet_problem *p = &plan->problem;
    const record_key key = {tokens, (int32_t)p->op, p->experts, p->hidden, p->inter};
    const size_t experts = (size_t)routing->experts;
    const uint64_t seed = hash_words(0xcbf29ce484222325ULL, &key, sizeof key / 4);
    const uint64_t hash = hash_words(seed, counts, experts);
    if (pthread_mutex_trylock(&handle->record_mutex) != 0) return; /* a launch does not wait for a save */
    moet_recorder *r = handle->recorder;
    if (!r) goto done; /* stopped just now */
    uint32_t slot = (uint32_t)hash & r->slot_mask;
    for (; r->slots[slot]; slot = (slot + 1) & r->slot_mask) {
        record_entry *entry = &r->entries[r->slots[slot] - 1];
        if (entry->hash == hash && memcmp(&entry->key, &key, sizeof key) == 0 &&
            memcmp(r->pool + entry->counts, counts, experts * sizeof *counts) == 0) {
            entry->launches++;
            goto done;
        }
    }
    if (r->count == r->capacity) {
        r->dropped++;
        goto done;
    }
    r->entries[r->count] = (record_entry){key, hash, r->pool_used, 1};
    memcpy(r->pool + r->pool_used, counts, experts * sizeof *counts);
    r->pool_used += experts;
    r->slots[slot] = ++r->count;
done:
    pthread_mutex_unlock(&handle->record_mutex);
}

moet_status moet_record_summarize(moet_handle *handle, moet_record_summary *summary)
{
    MOET_NEED(handle);
    MOET_NEED(summary);
    moet_record_summary sum = {0};
    pthread_mutex_lock(&handle->record_mutex);
    const moet_recorder *r = handle->recorder;
    const bool is_recording = r != NULL;
    if (is_recording) {
        sum = (moet_record_summary){.entries = r->count, .dropped = r->dropped};
        for (int32_t i = 0; i < r->count; i++) sum.launches += r->entries[i].launches;
    }
    pthread_mutex_unlock(&handle->record_mutex);
    if (!is_recording)
        return moet_fail(MOET_INVALID, "moet_record_summarize: nothing is recorded: call moet_record_start first");
    *summary = sum;
    return MOET_OK;
}

/* ---- the file ---- */

static void write_entry(FILE *file, const moet_recorder *r, int32_t index)
{
    static const char *const ops[] = {
#define MOET_X(name, text) text,
        MOET_OP_TABLE(MOET_X)
#undef MOET_X
    };
    const record_entry *entry = &r->entries[index];
    const record_key *key = &entry->key;
    const int32_t *counts = r->pool + entry->counts;
    int64_t rows = 0;
    for (int32_t e = 0; e < key->experts; e++) rows += counts[e];
    fprintf(file, "{\"name\":\"recorded/%s\",\"experts\":%d,\"hidden\":%d,\"inter\":%d,\"rows\":%lld,", ops[key->op],
            key->experts, key->hidden, key->inter, (long long)rows);
    if (key->tokens > 0) fprintf(file, "\"tokens\":%lld,", (long long)key->tokens);
    fprintf(file, "\"skew\":\"recorded:%d\",\"weight\":%lld,\"counts\":[", index, (long long)entry->launches);
    for (int32_t e = 0; e < key->experts; e++) fprintf(file, "%s%d", e ? "," : "", counts[e]);
    fputs("]}\n", file);
}

moet_status moet_record_save(moet_handle *handle, const char *path)
{
    MOET_NEED(handle);
    MOET_NEED(path);
    char *text = NULL;
    size_t size_bytes = 0;
    FILE *file = open_memstream(&text, &size_bytes);
    if (!file) return moet_fail(MOET_NO_MEMORY, "moet_record_save: %s: out of memory", path);
    pthread_mutex_lock(&handle->record_mutex);
    const moet_recorder *r = handle->recorder;
    for (int32_t i = 0; r && i < r->count; i++) write_entry(file, r, i);
    pthread_mutex_unlock(&handle->record_mutex);
    const bool failed = ferror(file) != 0;
    moet_status status = MOET_OK;
    if (fclose(file) != 0 || failed)
        status = moet_fail(MOET_NO_MEMORY, "moet_record_save: %s: out of memory", path);
    else if (!r)
        status =
            moet_fail(MOET_INVALID, "moet_record_save: %s: nothing is recorded: call moet_record_start first", path);
    else
        status = moet_file_replace(path, text, size_bytes);
    free(text);
    return status;
}
