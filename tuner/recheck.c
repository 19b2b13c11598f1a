/* recheck.c: see recheck.h. */
#include "recheck.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/status.h"
#include "planned.h"
#include "store.h"
#include "tuned.h"

#define UNCLEAR_PERCENT 10 /* of noise, and slower than tuned */

/* A tuned workload with the entries that serve, which lie together. */
typedef struct work {
    int32_t first, count;
    int32_t rank; /* least of its entries': how far on in the visit of one configuration's points */
} work;

struct moet_recheck {
    const moet_recheck_options *options;
    int64_t begin_ns;
    moet_device *device;
    moet_tuned points;                /* of the table */
    moet_handle *tuned, *untuned;     /* with the table, without */
    moet_bench *bench;                /* NULL until something is measured */
    moet_recheck_entry *entries;      /* in the table's order */
    int32_t entry_count, entry_room;
    work *works; /* in the order of the visit */
    int32_t work_count;
    int32_t *groups; /* [entries]: equal for one winner's configuration of a problem; -1: stale */
    int32_t group_count;
    bool *is_measured; /* [groups] */
};

static const char *const verdict_names[] = {
#define MOET_X(name, text) text,
    MOET_VERDICT_TABLE(MOET_X)
#undef MOET_X
};

const char *moet_verdict_name(moet_verdict verdict)
{
    return (unsigned)verdict < MOET_VERDICT_COUNT ? verdict_names[verdict] : "unknown";
}

moet_status moet_verdict_parse(const char *text, moet_verdict *verdict)
{
    for (int32_t i = 0; i < MOET_VERDICT_COUNT; i++) {
        if (strcmp(verdict_names[i], text) == 0) {
            *verdict = (moet_verdict)i;
            return MOET_OK;
        }
    }
    return moet_fail(MOET_INVALID, "verdict '%.40s' is unknown", text);
}

static moet_status out_of_memory(void) { return moet_fail(MOET_NO_MEMORY, "recheck: out of memory"); }

/* ---- entries ---- */

/* What the table's reader said of a winner that it refused. */
static void find_refusal(const moet_table *table, const char *problem_key, const moet_recheck_entry *entry,
                         char reason[MOET_REASON_SIZE])
{
    char what[MOET_KEY_SIZE + 64];
    const int length = snprintf(what, sizeof what, "%s rows=%lld max=%d %s: ", problem_key,
                                (long long)entry->point->rows, entry->point->max, moet_store_kind_name(entry->kind));
    snprintf(reason, MOET_REASON_SIZE, "refused");
    for (int32_t i = 0; i < table->refusal_count; i++) {
        if (strncmp(table->refusals[i], what, (size_t)length) == 0) {
            snprintf(reason, MOET_REASON_SIZE, "%.*s", MOET_REASON_SIZE - 1, table->refusals[i] + length);
            return;
        }
    }
}

static void put_config(moet_recheck_time *time, const char *config)
{
    snprintf(time->config, sizeof time->config, "%s", config);
}

/* Whether time is above another (0: unknown) by more than a tie. */
static bool is_beyond_tie(int64_t time_ns, int64_t other_ns, int64_t noise_ns)
{
    const int64_t tie = other_ns > 100 * noise_ns ? other_ns : 100 * noise_ns;
    return other_ns > 0 && 100 * (time_ns - other_ns) > tie;
}

static moet_status add_entry(moet_recheck *r, const moet_tuned_point *p, moet_table_kind kind)
{
    const cJSON *winner = cJSON_GetObjectItemCaseSensitive(p->object, moet_store_kind_name(kind));
    if (!cJSON_IsObject(winner)) {
        return MOET_OK;
    }
    if (r->entry_count == r->entry_room) {
        const int32_t room = r->entry_room > 0 ? 2 * r->entry_room : 64;
        moet_recheck_entry *grown = realloc(r->entries, (size_t)room * sizeof *grown);
        if (grown == NULL) {
            return out_of_memory();
        }
        r->entries = grown;
        r->entry_room = room;
    }
    moet_recheck_entry *e = &r->entries[r->entry_count++];
    *e = (moet_recheck_entry){.problem = p->problem,
                              .point = p->point,
                              .kind = kind,
                              .workload = p->workload,
                              .skew = p->skew,
                              .tokens = p->tokens,
                              .tuned_ns = moet_tuned_get_integer(winner, "time_ns"),
                              .has_default = moet_tuned_get_integer(winner, "default_time_ns") > 0,
                              .is_constrained = is_beyond_tie(moet_tuned_get_integer(winner, "time_ns"),
                                                              moet_tuned_get_integer(winner, "default_time_ns"),
                                                              moet_tuned_get_integer(winner, "noise_ns")),
                              .verdict = MOET_VERDICT_LEFT,
                              .error = (double)NAN};
    put_config(&e->times[MOET_CONTENDER_WINNER], moet_tuned_get_text(winner, "config"));
    if (!r->options->no_runner_up) {
        put_config(&e->times[MOET_CONTENDER_RUNNER_UP], moet_tuned_get_text(winner, "runner_up"));
    }
    if (!p->point->winner[kind].present) {
        e->verdict = MOET_VERDICT_STALE;
        find_refusal(r->points.table, p->problem_key, e, e->reason);
    }
    return MOET_OK;
}

static moet_status add_entries(void *context, const moet_tuned_point *point)
{
    moet_recheck *r = context;
    for (moet_table_kind kind = 0; kind < MOET_TABLE_KIND_COUNT; kind++) MOET_TRY(add_entry(r, point, kind));
    return MOET_OK;
}

/* ---- the order of the visit ---- */

/* The k-th of n places, the first in the middle, each next in the middle of a gap: bits of k in reverse. */
static int32_t spread_rank(int32_t place, int32_t n)
{
    int32_t size = 1, rank = 0;
    while (size < n) size *= 2;
    for (int32_t k = 0; k < size; k++) {
        int32_t reversed = 0;
        for (int32_t bit = 1, to = size / 2; bit < size; bit *= 2, to /= 2) reversed += (k & bit) != 0 ? to : 0;
        const int32_t at = (reversed + size / 2) % size;
        if (at == place) {
            break;
        }
        rank += at < n;
    }
    return rank;
}

static bool is_same_group(const moet_recheck_entry *a, const moet_recheck_entry *b)
{
    return a->problem == b->problem && strcmp(a->times[0].config, b->times[0].config) == 0;
}

static moet_status find_groups(moet_recheck *r)
{
    r->groups = malloc(((size_t)r->entry_count + 1) * sizeof *r->groups);
    r->is_measured = calloc((size_t)r->entry_count + 1, sizeof *r->is_measured);
    if (r->groups == NULL || r->is_measured == NULL) {
        return out_of_memory();
    }
    for (int32_t i = 0; i < r->entry_count; i++) {
        r->groups[i] = r->entries[i].verdict == MOET_VERDICT_STALE ? -1 : r->group_count;
        for (int32_t j = 0; j < i && r->groups[i] == r->group_count; j++) {
            if (r->groups[j] >= 0 && is_same_group(&r->entries[i], &r->entries[j])) {
                r->groups[i] = r->groups[j];
            }
        }
        r->group_count += r->groups[i] == r->group_count;
    }
    return MOET_OK;
}

static int by_rank(const void *a, const void *b)
{
    const work *x = a, *y = b;
    return x->rank != y->rank ? (x->rank > y->rank) - (x->rank < y->rank) : (x->first > y->first) - (x->first < y->first);
}

/* Points of equal rank stay in the table's order, in which those of a problem share its weights. */
static moet_status plan_visit(moet_recheck *r)
{
    int32_t *sizes = calloc((size_t)r->group_count + 1, sizeof *sizes);
    int32_t *seen = calloc((size_t)r->group_count + 1, sizeof *seen);
    r->works = calloc((size_t)r->entry_count + 1, sizeof *r->works);
    moet_status status = sizes != NULL && seen != NULL && r->works != NULL ? MOET_OK : out_of_memory();
    for (int32_t i = 0; status == MOET_OK && i < r->entry_count; i++) {
        if (r->groups[i] >= 0) {
            sizes[r->groups[i]]++;
        }
    }
    for (int32_t i = 0; status == MOET_OK && i < r->entry_count; i++) {
        if (r->groups[i] < 0) {
            continue;
        }
        const int32_t rank = spread_rank(seen[r->groups[i]]++, sizes[r->groups[i]]);
        work *last = r->work_count > 0 ? &r->works[r->work_count - 1] : NULL;
        if (last != NULL && r->entries[last->first].point == r->entries[i].point) {
            last->count = i + 1 - last->first;
            last->rank = rank < last->rank ? rank : last->rank;
        } else {
            r->works[r->work_count++] = (work){i, 1, rank};
        }
    }
    if (status == MOET_OK) {
        qsort(r->works, (size_t)r->work_count, sizeof *r->works, by_rank);
    }
    free(sizes);
    free(seen);
    return status;
}

/* ---- open, close ---- */

static moet_status open_all(moet_recheck *r)
{
    const moet_recheck_options *o = r->options;
    MOET_TRY(moet_device_open(o->device, &r->device));
    MOET_TRY(moet_tuned_open(o->table, r->device, &r->points));
    if (r->points.section == NULL) {
        return moet_fail(MOET_NOT_FOUND,
                         "%s: no entry was made for this device (%.300s); tune it: moe-tune sweep, then moe-tune emit",
                         o->table, r->device->key);
    }
    MOET_TRY(moet_planned_open(o->table, o->device, &r->tuned));
    MOET_TRY(moet_planned_open(NULL, o->device, &r->untuned));
    MOET_TRY(moet_tuned_each(&r->points, add_entries, r));
    MOET_TRY(find_groups(r));
    return plan_visit(r);
}

moet_status moet_recheck_open(const moet_recheck_options *options, moet_recheck **recheck)
{
    moet_recheck *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return out_of_memory();
    }
    r->options = options;
    r->begin_ns = moet_clock_ns();
    moet_status status = open_all(r);
    if (status != MOET_OK) {
        moet_recheck_close(r);
        return status;
    }
    *recheck = r;
    return MOET_OK;
}

void moet_recheck_close(moet_recheck *r)
{
    if (r == NULL) {
        return;
    }
    moet_bench_destroy(r->bench);
    moet_close(r->tuned);
    moet_close(r->untuned);
    moet_tuned_close(&r->points);
    moet_device_close(r->device);
    free(r->entries);
    free(r->works);
    free(r->groups);
    free(r->is_measured);
    free(r);
}

const moet_device_info *moet_recheck_device(const moet_recheck *r) { return &r->device->info; }

const char *moet_recheck_driver(const moet_recheck *r) { return moet_tuned_get_text(r->points.section, "driver"); }

int32_t moet_recheck_points(const moet_recheck *r) { return r->work_count; }

void moet_recheck_coverage(const moet_recheck *r, int32_t *configs, int32_t *measured)
{
    *configs = r->group_count;
    *measured = 0;
    for (int32_t i = 0; i < r->group_count; i++) *measured += r->is_measured[i];
}

/* ---- one point ---- */

/* Who runs for an entry. */
typedef struct contest {
    moet_recheck_entry *entry;
    int32_t subjects[MOET_CONTENDER_COUNT]; /* -1: none; of equal configurations the same */
    moet_planned planned[MOET_CONTENDER_COUNT];
    bool was_behind; /* in the first set of rounds */
} contest;

static const char *const contender_names[] = {"the winner", "the runner-up", "the default"};

/* An error that says that one contender cannot run here, and no more. */
static bool costs_one_contender(moet_status status)
{
    return status == MOET_UNSUPPORTED || status == MOET_NOT_FOUND || status == MOET_COMPILE ||
           status == MOET_NO_DEVICE_MEMORY;
}

static moet_status add_plan(moet_recheck *r, contest *c, moet_contender who, moet_handle *handle)
{
    const moet_recheck_entry *e = c->entry;
    return moet_planned_add(r->bench, handle, &e->problem->problem, e->point->counts,
                            e->kind == MOET_TABLE_DEVICE_COUNTS, contender_names[who], &c->planned[who]);
}

static moet_status add_config(moet_recheck *r, contest *c, moet_contender who)
{
    const moet_problem *problem = &c->entry->problem->problem;
    moet_config config;
    if (moet_config_parse(c->entry->times[who].config, &config) != MOET_OK) {
        return moet_fail(MOET_UNSUPPORTED, "%s", moet_last_error()); /* another version's */
    }
    const bool takes_host = config.family->traits(problem, &config).host_counts;
    return moet_bench_add_config(r->bench, &config, c->entry->kind == MOET_TABLE_DEVICE_COUNTS || !takes_host,
                                 &c->subjects[who]);
}

/* The plan's launch, with the table's kernels and algorithms; the configuration by itself where another point of the
 * same rows and busiest expert answers for this one. */
static moet_status add_winner(moet_recheck *r, contest *c)
{
    moet_planned *planned = &c->planned[MOET_CONTENDER_WINNER];
    MOET_TRY(add_plan(r, c, MOET_CONTENDER_WINNER, r->tuned));
    if (strcmp(planned->choice.config, c->entry->times[MOET_CONTENDER_WINNER].config) == 0) {
        c->subjects[MOET_CONTENDER_WINNER] = planned->subject;
        return MOET_OK;
    }
    moet_bench_retire(r->bench, planned->subject);
    return add_config(r, c, MOET_CONTENDER_WINNER);
}

static moet_status add_default(moet_recheck *r, contest *c)
{
    moet_recheck_entry *e = c->entry;
    moet_planned *planned = &c->planned[MOET_CONTENDER_DEFAULT];
    MOET_TRY(add_plan(r, c, MOET_CONTENDER_DEFAULT, r->untuned));
    put_config(&e->times[MOET_CONTENDER_DEFAULT], planned->choice.config);
    for (moet_contender who = 0; who < MOET_CONTENDER_DEFAULT; who++) {
        if (c->subjects[who] >= 0 && strcmp(e->times[who].config, planned->choice.config) == 0) {
            moet_bench_retire(r->bench, planned->subject);
            c->subjects[MOET_CONTENDER_DEFAULT] = c->subjects[who];
            return MOET_OK;
        }
    }
    c->subjects[MOET_CONTENDER_DEFAULT] = planned->subject;
    return MOET_OK;
}

static void note_failure(moet_recheck_entry *e, moet_contender who, const char *why)
{
    if (e->reason[0] == '\0') {
        snprintf(e->reason, sizeof e->reason, "%s: %.*s", contender_names[who], MOET_REASON_SIZE - 20, why);
    }
}

static moet_status add_contenders(moet_recheck *r, contest *c)
{
    for (moet_contender who = 0; who < MOET_CONTENDER_COUNT; who++) {
        const char *config = c->entry->times[who].config;
        moet_status status = MOET_OK;
        if (who == MOET_CONTENDER_WINNER) {
            status = add_winner(r, c);
        } else if (who == MOET_CONTENDER_DEFAULT) {
            status = add_default(r, c);
        } else if (config[0] != '\0') {
            status = add_config(r, c, who);
        }
        if (costs_one_contender(status)) {
            note_failure(c->entry, who, moet_last_error());
            c->entry->verdict = who == MOET_CONTENDER_WINNER ? MOET_VERDICT_FAILED : c->entry->verdict;
            status = MOET_OK;
        }
        MOET_TRY(status);
    }
    return MOET_OK;
}

static bool is_interrupted(const moet_recheck *r)
{
    return r->options->interrupted != NULL && *r->options->interrupted != 0;
}

static moet_status run_rounds(moet_recheck *r)
{
    for (int32_t i = 0; i < r->options->rounds && !is_interrupted(r); i++) MOET_TRY(moet_bench_round(r->bench));
    return MOET_OK;
}

/* Takes the times of the rounds so far; whether another is faster than the winner by more than a tie. */
static bool read_times(const moet_recheck *r, contest *c)
{
    moet_recheck_time *times = c->entry->times, *winner = &times[MOET_CONTENDER_WINNER];
    bool is_behind = false;
    for (moet_contender who = 0; who < MOET_CONTENDER_COUNT; who++) {
        const int32_t subject = c->subjects[who];
        const bool is_timed = subject >= 0 && moet_bench_view(r->bench, subject)->status == MOET_TRIAL_OK;
        times[who].median_ns = is_timed ? moet_bench_median_ns(r->bench, subject) : 0;
        times[who].noise_ns = is_timed ? moet_bench_noise_ns(r->bench, subject) : 0;
        const int64_t noise_ns =
            times[who].noise_ns > winner->noise_ns ? times[who].noise_ns : winner->noise_ns;
        const bool counts = who != MOET_CONTENDER_DEFAULT || !c->entry->is_constrained;
        is_behind = is_behind || (counts && is_beyond_tie(winner->median_ns, times[who].median_ns, noise_ns));
    }
    return is_behind;
}

/* A tie grows with the noise, and hides by how much another is faster. Where the noise is large and the winner is
 * slower than when it was tuned, by more than any clock explains, nothing can be said of it. */
static bool is_unclear(moet_recheck_entry *e)
{
    const moet_recheck_time *time = &e->times[MOET_CONTENDER_WINNER];
    const bool is_noisy = 100 * time->noise_ns > UNCLEAR_PERCENT * time->median_ns;
    const bool is_slow = e->tuned_ns > 0 && 100 * (time->median_ns - e->tuned_ns) > UNCLEAR_PERCENT * e->tuned_ns;
    if (is_noisy && is_slow && e->reason[0] == '\0') {
        snprintf(e->reason, sizeof e->reason, "a noise of %.0f %% at %.2f times the tuned time",
                 100 * (double)time->noise_ns / (double)time->median_ns, (double)time->median_ns / (double)e->tuned_ns);
    }
    return is_noisy && is_slow;
}

/* The verdict after the rounds. */
static void judge(const moet_recheck *r, contest *c, bool is_behind)
{
    moet_recheck_entry *e = c->entry;
    moet_verdict verdict = is_behind && c->was_behind ? MOET_VERDICT_LOST : MOET_VERDICT_HOLDS;
    for (moet_contender who = 0; who < MOET_CONTENDER_COUNT; who++) {
        if (c->subjects[who] < 0) {
            continue;
        }
        const moet_trial *trial = moet_bench_view(r->bench, c->subjects[who]);
        if (who == MOET_CONTENDER_WINNER) {
            e->error = trial->error;
        }
        if (trial->status == MOET_TRIAL_OK) {
            continue;
        }
        /* A default that was wrong when the table was made is no news. */
        const bool is_news = who != MOET_CONTENDER_DEFAULT || e->has_default;
        if (trial->status == MOET_TRIAL_WRONG && is_news) {
            if (verdict != MOET_VERDICT_WRONG) e->reason[0] = '\0'; /* says more than who could not run */
            verdict = MOET_VERDICT_WRONG;
        } else if (who == MOET_CONTENDER_WINNER) {
            verdict = MOET_VERDICT_FAILED;
        }
        note_failure(e, who, trial->reason);
    }
    if (e->verdict == MOET_VERDICT_LEFT || verdict == MOET_VERDICT_WRONG) {
        /* otherwise the winner could not be added */
        e->verdict = verdict == MOET_VERDICT_HOLDS && is_unclear(e) ? MOET_VERDICT_UNCLEAR : verdict;
    }
}

static moet_status sustain(moet_recheck *r, const contest *contests, int32_t count)
{
    for (int32_t i = 0; i < count && r->options->sustain_ns > 0; i++) {
        const int32_t subject = contests[i].subjects[MOET_CONTENDER_WINNER];
        if (subject >= 0 && moet_bench_active(r->bench, subject)) {
            MOET_TRY(moet_bench_round(r->bench)); /* captures */
            if (moet_bench_active(r->bench, subject)) {
                MOET_TRY(moet_bench_sustain(r->bench, subject, r->options->sustain_ns));
            }
            moet_bench_clear_samples(r->bench);
            break; /* the winners of one point are as good a load */
        }
    }
    return MOET_OK;
}

/* Of rounds that are not all: they say nothing. */
static void forget_times(contest *contests, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        moet_recheck_time *times = contests[i].entry->times;
        for (moet_contender who = 0; who < MOET_CONTENDER_COUNT; who++) times[who].median_ns = times[who].noise_ns = 0;
    }
}

/* Interrupted, the verdicts stay as they were. */
static moet_status measure(moet_recheck *r, contest *contests, int32_t count)
{
    const moet_recheck_entry *first = contests[0].entry;
    bool is_behind[MOET_TABLE_KIND_COUNT] = {false}, again = false;
    MOET_TRY(
        moet_bench_set_workload(r->bench, &first->problem->problem, first->point->counts, first->tokens));
    for (int32_t i = 0; i < count; i++) MOET_TRY(add_contenders(r, &contests[i]));
    MOET_TRY(sustain(r, contests, count));
    MOET_TRY(run_rounds(r));
    if (is_interrupted(r)) {
        return MOET_OK;
    }
    for (int32_t i = 0; i < count; i++) {
        is_behind[i] = contests[i].was_behind = read_times(r, &contests[i]);
        again = again || is_behind[i];
    }
    if (again) {
        moet_bench_clear_samples(r->bench);
        MOET_TRY(run_rounds(r));
        if (is_interrupted(r)) {
            forget_times(contests, count);
            return MOET_OK;
        }
        for (int32_t i = 0; i < count; i++) is_behind[i] = read_times(r, &contests[i]);
    }
    for (int32_t i = 0; i < count; i++) judge(r, &contests[i], is_behind[i]);
    return MOET_OK;
}

/* No memory, a wrong reference, a slowed device and too many experts a token cost a point. */
static bool costs_one_point(moet_status status)
{
    return status == MOET_NO_DEVICE_MEMORY || status == MOET_WRONG || status == MOET_TIMEOUT ||
           status == MOET_UNSUPPORTED;
}

static moet_status measure_work(moet_recheck *r, const work *w)
{
    contest contests[MOET_TABLE_KIND_COUNT] = {0};
    for (int32_t i = 0; i < w->count; i++) contests[i] = (contest){&r->entries[w->first + i], {-1, -1, -1}, {{0}}, false};
    moet_status status = measure(r, contests, w->count);
    for (int32_t i = 0; i < w->count && costs_one_point(status); i++) {
        contests[i].entry->verdict = status == MOET_WRONG ? MOET_VERDICT_WRONG : MOET_VERDICT_FAILED;
        snprintf(contests[i].entry->reason, MOET_REASON_SIZE, "%.*s", MOET_REASON_SIZE - 1, moet_last_error());
    }
    /* A plan must outlive its launches. */
    for (int32_t i = 0, n = moet_bench_subject_count(r->bench); i < n; i++) moet_bench_retire(r->bench, i);
    for (int32_t i = 0; i < w->count; i++) {
        for (moet_contender who = 0; who < MOET_CONTENDER_COUNT; who++)
            moet_planned_release(&contests[i].planned[who]);
    }
    return costs_one_point(status) ? MOET_OK : status;
}

/* ---- the visit ---- */

static void tell(const moet_recheck_visitor *visitor, const moet_recheck_entry *entry)
{
    visitor->told(visitor->context, entry);
}

static bool is_out_of_time(const moet_recheck *r, int64_t longest_ns)
{
    return r->options->limit_ns > 0 && moet_clock_ns() + longest_ns > r->begin_ns + r->options->limit_ns;
}

moet_status moet_recheck_run(moet_recheck *r, const moet_recheck_visitor *visitor)
{
    int64_t longest_ns = 0;
    for (int32_t i = 0; i < r->entry_count; i++) {
        if (r->entries[i].verdict == MOET_VERDICT_STALE) tell(visitor, &r->entries[i]);
    }
    if (r->work_count > 0) {
        MOET_TRY(moet_bench_create(r->device, r->options->seed, true, &r->bench));
    }
    for (int32_t i = 0; i < r->work_count && !is_interrupted(r) && !(i > 0 && is_out_of_time(r, longest_ns)); i++) {
        const work *w = &r->works[i];
        const int64_t begin_ns = moet_clock_ns();
        if (visitor->before != NULL) {
            visitor->before(visitor->context, (double)i / r->work_count, &r->entries[w->first]);
        }
        MOET_TRY(measure_work(r, w));
        for (int32_t e = w->first; e < w->first + w->count; e++) {
            if (r->entries[e].verdict == MOET_VERDICT_LEFT) {
                continue; /* interrupted: told with the others that are left */
            }
            r->is_measured[r->groups[e]] = true;
            tell(visitor, &r->entries[e]);
        }
        const int64_t took_ns = moet_clock_ns() - begin_ns;
        longest_ns = took_ns > longest_ns ? took_ns : longest_ns;
    }
    for (int32_t i = 0; i < r->entry_count; i++) {
        if (r->entries[i].verdict == MOET_VERDICT_LEFT) tell(visitor, &r->entries[i]);
    }
    return MOET_OK;
}
