/* race.c: see race.h. */
#include "race.h"

#include <stdio.h>
#include <string.h>

#define BATCH 24          /* candidates whose graphs are held at once before the slow ones go */
#define SLOW_FACTOR 1.5   /* step 1 */
#define LAUNCH_FACTOR 1.5 /* step 1: what a single cold launch must be behind by, */
#define LAUNCH_NS 300000  /* and how long it must be for that to tell anything */
#define RACE_ROUNDS 3     /* step 2 */
#define REFINE_ROUNDS 2   /* step 3 */
#define CLEAR_FACTOR 1.03 /* steps 2 and 3 */
#define FINALISTS 3       /* of each kind, step 4 */
#define FILL_FACTOR 1.02  /* what one that fills may be behind by and still be decided */

#define MOST_CENTERS 4    /* of a pass of step 3 */
#define MORE_ROUNDS 3     /* step 4: times as many as asked, at most, */
#define MOST_FINAL_ROUNDS 128 /* unless more are asked */

/* Parts of the progress that are done after each step. */
#define PART_TRIED 0.5
#define PART_RACED 0.55
#define PART_REFINED 0.8

typedef struct race_state {
    const moet_race *race;
    moet_race_result *result;
    bool of_store;
    int32_t new_count; /* candidates to be tried, of those not tried yet */
} race_state;

static bool is_timed(const moet_candidate *c) { return c->status == MOET_TRIAL_OK && c->median_ns > 0; }

static bool may_win(const moet_candidate *c) { return is_timed(c) && !c->is_suspect; }

static bool is_live(const race_state *s, const moet_candidate *c)
{
    return c->subject >= 0 && moet_worker_active(s->race->worker, c->subject);
}

/* The fastest that may win and serves a kind of counts. live: only those still in the bench. */
static const moet_candidate *find_leader(const race_state *s, bool device_counts, bool live)
{
    const moet_candidate *best = NULL;
    for (int32_t i = 0; i < s->race->candidates->count; i++) {
        const moet_candidate *c = &s->race->candidates->items[i];
        bool serves = c->device_counts || !device_counts;
        if (serves && may_win(c) && (!live || is_live(s, c)) && (best == NULL || c->median_ns < best->median_ns)) {
            best = c;
        }
    }
    return best;
}

/* ---- the store ---- */

static moet_store_key key_of(const race_state *s, const moet_candidate *c)
{
    const moet_race *race = s->race;
    return (moet_store_key){.device_key = race->device_key,
                            .problem = race->problem,
                            .workload = race->workload,
                            .config = c->text,
                            .device_counts = c->device_counts,
                            .family_version = c->config.family->version,
                            .validator = c->validator};
}

/* The device's default of a kind: the first family default that runs. Defaults are tried first, so that this is known
 * before anything is stored. */
static bool is_device_default(const race_state *s, const moet_candidate *candidate)
{
    for (int32_t i = 0; i < s->race->candidates->count; i++) {
        const moet_candidate *c = &s->race->candidates->items[i];
        if (c->family_default && c->device_counts == candidate->device_counts && c->applicable &&
            c->status == MOET_TRIAL_OK) {
            return c == candidate;
        }
    }
    return false;
}

static moet_status put(race_state *s, moet_candidate *c, const moet_trial *trial, bool final_rounds, bool replace)
{
    moet_store_key key = key_of(s, c);
    moet_status status = moet_store_put_trial(s->race->store, s->race->run_id, &key, trial, is_device_default(s, c),
                                              final_rounds, replace || s->race->since[0] != '\0', NULL);
    s->of_store = s->of_store || status != MOET_OK;
    if (status == MOET_OK) {
        c->stored = true;
    }
    return status;
}

/* Stores a subject's trial as it stands; one of final rounds in place of the racing one. */
static moet_status put_subject(race_state *s, moet_candidate *c, bool final_rounds)
{
    moet_trial trial = {0};
    MOET_TRY(moet_worker_trial(s->race->worker, c->subject, &trial));
    c->status = trial.status;
    moet_status status = put(s, c, &trial, final_rounds && trial.status == MOET_TRIAL_OK, final_rounds);
    moet_trial_release(&trial);
    return status;
}

/* Stores a subject that was found wrong or failed, in place of any earlier trial, and leaves it. */
static moet_status put_failure(race_state *s, moet_candidate *c)
{
    moet_status status = put_subject(s, c, true);
    s->result->wrong += c->status == MOET_TRIAL_WRONG;
    s->result->failed += c->status == MOET_TRIAL_FAILED || c->status == MOET_TRIAL_TIMEOUT;
    c->subject = -1;
    return status;
}

static moet_status put_inapplicable(race_state *s, moet_candidate *c)
{
    moet_trial trial = {.status = MOET_TRIAL_INAPPLICABLE, .device_counts = c->device_counts};
    snprintf(trial.config, sizeof trial.config, "%s", c->text);
    snprintf(trial.reason, sizeof trial.reason, "%s", c->reason);
    c->status = MOET_TRIAL_INAPPLICABLE;
    return put(s, c, &trial, false, false);
}

typedef struct stored_visit {
    const moet_race *race;
    int32_t first; /* candidates before are known */
} stored_visit;

/* Fills in what the store knows of a candidate. */
static moet_status visit_stored(void *context, const moet_store_trial_row *row)
{
    const stored_visit *visit = context;
    const moet_race *race = visit->race;
    if (row->experts != race->workload->experts ||
        memcmp(row->counts, race->workload->counts, (size_t)row->experts * sizeof *row->counts) != 0) {
        return MOET_OK;
    }
    for (int32_t i = visit->first; i < race->candidates->count; i++) {
        moet_candidate *c = &race->candidates->items[i];
        if (c->stored && c->device_counts == row->device_counts && c->config.family->version == row->family_version &&
            strcmp(c->text, row->config) == 0 && strcmp(c->validator, row->validator) == 0) {
            c->status = row->status;
            c->median_ns = row->median_ns;
            c->noise_ns = row->noise_ns;
        }
    }
    return MOET_OK;
}

/* Of the candidates from `first` on. */
static moet_status find_stored(race_state *s, int32_t first)
{
    const moet_race *race = s->race;
    int32_t stored = 0;
    s->new_count = 0;
    for (int32_t i = first; i < race->candidates->count; i++) {
        moet_candidate *c = &race->candidates->items[i];
        moet_store_key key = key_of(s, c);
        moet_status status = moet_store_has_trial(race->store, &key, race->since, race->effort, &c->stored, NULL);
        if (status == MOET_OK) status = moet_store_is_suspect(race->store, &key, &c->is_suspect);
        if (status != MOET_OK) {
            s->of_store = true;
            return status;
        }
        stored += c->stored;
        s->new_count += !c->stored && c->applicable;
        if ((!c->stored || race->fills) && c->applicable) { /* what is stored may be timed again in final rounds */
            MOET_TRY(moet_compile_ahead_add(race->ahead, race->problem, &c->config, race->device));
        }
    }
    if (stored == 0) {
        return MOET_OK;
    }
    char problem_key[MOET_STORE_PROBLEM_SIZE];
    moet_store_problem_key(race->problem, race->workload, problem_key);
    moet_store_filter filter = {.device_key = race->device_key, .problem_key = problem_key, .workload = race->workload};
    stored_visit visit = {race, first};
    moet_status status = moet_store_each_trial(race->store, &filter, visit_stored, &visit);
    s->of_store = status != MOET_OK;
    return status;
}

/* ---- rounds ---- */

static void report(const race_state *s, double part)
{
    s->race->report(s->race->context, part, find_leader(s, false, false));
}

static bool should_stop(race_state *s)
{
    s->result->stopped = s->result->stopped || s->race->should_stop(s->race->context);
    return s->result->stopped;
}

static bool is_past_deadline(const moet_race *race)
{
    return race->deadline_ns > 0 && moet_clock_ns() >= race->deadline_ns;
}

/* Whether the race has had its share of the time: what is left out of it then makes the effort a lower one. */
static bool is_cut(race_state *s)
{
    if (!is_past_deadline(s->race)) return false;
    s->result->effort = MOET_EFFORT_QUICK;
    return true;
}

static moet_status run_round(race_state *s)
{
    MOET_TRY(moet_worker_round(s->race->worker));
    for (int32_t i = 0; i < s->race->candidates->count; i++) {
        moet_candidate *c = &s->race->candidates->items[i];
        if (is_live(s, c)) {
            c->median_ns = moet_worker_median_ns(s->race->worker, c->subject);
            c->noise_ns = moet_worker_noise_ns(s->race->worker, c->subject);
        } else if (c->subject >= 0) { /* failed in this round */
            MOET_TRY(put_failure(s, c));
        }
    }
    return MOET_OK;
}

/* Stores a candidate that is out of the race and gives its graph back. */
static moet_status drop(race_state *s, moet_candidate *c)
{
    if (!c->stored) {
        MOET_TRY(put_subject(s, c, false));
    }
    moet_worker_retire(s->race->worker, c->subject);
    c->subject = -1;
    return MOET_OK;
}

static moet_status drop_slow(race_state *s)
{
    for (int32_t i = 0; i < s->race->candidates->count; i++) {
        moet_candidate *c = &s->race->candidates->items[i];
        const moet_candidate *leader = find_leader(s, c->device_counts, false);
        if (is_live(s, c) && !c->family_default && leader != NULL &&
            (double)c->median_ns > SLOW_FACTOR * (double)leader->median_ns) {
            MOET_TRY(drop(s, c));
        }
    }
    return MOET_OK;
}

static moet_status drop_clear(race_state *s)
{
    for (int32_t i = 0; i < s->race->candidates->count; i++) {
        moet_candidate *c = &s->race->candidates->items[i];
        /* Live ones only: a time of another day is too far away for 3 %. */
        const moet_candidate *leader = find_leader(s, c->device_counts, true);
        if (is_live(s, c) && !c->family_default && leader != NULL &&
            c->median_ns - c->noise_ns > leader->median_ns + leader->noise_ns &&
            (double)c->median_ns > CLEAR_FACTOR * (double)leader->median_ns) {
            MOET_TRY(drop(s, c));
        }
    }
    return MOET_OK;
}

/* ---- the steps ---- */

static moet_status add_candidate(race_state *s, moet_candidate *c)
{
    moet_compile_ahead_wait(s->race->ahead, s->race->problem, &c->config, s->race->device);
    MOET_TRY(moet_worker_add_config(s->race->worker, &c->config, c->device_counts, &c->subject));
    s->result->tried++;
    if (is_live(s, c)) {
        c->status = MOET_TRIAL_OK;
        return MOET_OK;
    }
    return put_failure(s, c);
}

/* Whether the verified launch already tells that a candidate is far behind: behind the best verified launch of those
 * that serve the same counts. It is then stored with that one time. */
static bool is_far_behind(const race_state *s, const moet_candidate *candidate)
{
    int64_t best_ns = INT64_MAX, own_ns = moet_worker_launch_ns(s->race->worker, candidate->subject);
    for (int32_t i = 0; i < s->race->candidates->count; i++) {
        const moet_candidate *c = &s->race->candidates->items[i];
        if (c->status == MOET_TRIAL_OK && c->launch_ns > 0 && (c->device_counts || !candidate->device_counts) &&
            c->launch_ns < best_ns)
            best_ns = c->launch_ns;
    }
    /* A vendor library's first launch also loads its kernels: it tells nothing. */
    return !candidate->family_default && !candidate->config.family->validator && own_ns > LAUNCH_NS &&
           best_ns < INT64_MAX && (double)own_ns > LAUNCH_FACTOR * (double)best_ns;
}

/* Drops a candidate whose launch is far behind, and so is a second one: a kernel may be slow once. */
static moet_status judge_launch(race_state *s, moet_candidate *c)
{
    c->launch_ns = moet_worker_launch_ns(s->race->worker, c->subject);
    if (!is_far_behind(s, c)) {
        return MOET_OK;
    }
    MOET_TRY(moet_worker_launch_again(s->race->worker, c->subject));
    if (!is_live(s, c)) {
        return put_failure(s, c);
    }
    c->launch_ns = moet_worker_launch_ns(s->race->worker, c->subject);
    if (!is_far_behind(s, c)) {
        return MOET_OK;
    }
    MOET_TRY(moet_worker_keep_launch(s->race->worker, c->subject));
    c->median_ns = moet_worker_median_ns(s->race->worker, c->subject);
    return drop(s, c);
}

/* Step 1, for the candidates from `first` on; where the race is cut, for those before `least`. */
static moet_status try_from(race_state *s, int32_t first, int32_t least, double begin_part, double end_part)
{
    const moet_race *race = s->race;
    int32_t waiting = 0, tried = 0;
    for (int32_t i = first; i < race->candidates->count && !should_stop(s); i++) {
        moet_candidate *c = &race->candidates->items[i];
        if (c->stored) {
            continue;
        }
        if (i >= least && is_cut(s)) {
            break;
        }
        if (!c->applicable) {
            MOET_TRY(put_inapplicable(s, c));
            continue;
        }
        MOET_TRY(add_candidate(s, c));
        if (is_live(s, c)) {
            MOET_TRY(judge_launch(s, c));
        }
        waiting += is_live(s, c);
        report(s, begin_part + (end_part - begin_part) * ++tried / s->new_count);
        if (waiting == BATCH) {
            MOET_TRY(run_round(s));
            MOET_TRY(drop_slow(s));
            waiting = 0;
        }
    }
    if (waiting > 0) {
        MOET_TRY(run_round(s));
        MOET_TRY(drop_slow(s));
    }
    return MOET_OK;
}

/* Step 2, and after step 1 of refined candidates. */
static moet_status race_few(race_state *s, int32_t rounds, double begin_part, double end_part)
{
    for (int32_t i = 0; i < rounds && !should_stop(s); i++) {
        MOET_TRY(run_round(s));
        report(s, begin_part + (end_part - begin_part) * (i + 1) / rounds);
    }
    return s->result->stopped ? MOET_OK : drop_clear(s);
}

/* Whether two configs differ in nothing but what is tried around one: a default is a candidate for each kind of counts,
 * and what won nearby may be the default with another order. */
static bool is_around(const moet_config *a, const moet_config *b)
{
    bool is_searched = false; /* by anything first */
    for (int32_t i = 0; a->family == b->family && i < a->family->param_count; i++) {
        const bool first = a->family->params[i].search == MOET_SEARCH_FIRST;
        if (first && a->value[i] != b->value[i]) {
            return false;
        }
        is_searched = is_searched || first;
    }
    return is_searched || moet_config_equal(a, b);
}

/* Indices of the fastest candidates, at most `most`, into found[]; what can be varied only, and none around another:
 * two kernels tell more than one twice. The count. */
static int32_t find_centers(const race_state *s, int32_t most, int32_t *found)
{
    const moet_candidates *list = s->race->candidates;
    int32_t count = 0;
    for (bool any = true; any && count < most;) {
        any = false;
        for (int32_t i = 0; i < list->count; i++) {
            const moet_candidate *c = &list->items[i];
            bool passes = c->is_chosen && may_win(c) && moet_candidates_around(&c->config) > 0 &&
                          (!any || c->median_ns < list->items[found[count]].median_ns);
            for (int32_t j = 0; j < count && passes; j++) {
                passes = !is_around(&list->items[found[j]].config, &c->config);
            }
            if (passes) {
                found[count] = i;
                any = true;
            }
        }
        count += any;
    }
    return count;
}

/* Step 3. Times of an earlier process count as much as those of this one: centers are no winners yet. */
static moet_status refine(race_state *s)
{
    const moet_race *race = s->race;
    const moet_effort_rule *rule = moet_effort_rule_of(race->effort);
    const int32_t crossings = race->problem->op == MOET_OP_FFN, passes = crossings + MOET_EFFORT_PASSES;
    const int32_t *counts = crossings ? rule->path_centers : rule->centers;
    for (int32_t pass = 0; pass < passes && !should_stop(s); pass++) {
        const double part = (PART_REFINED - PART_RACED) / passes, begin_part = PART_RACED + pass * part;
        int32_t found[MOST_CENTERS], first = race->candidates->count;
        if (pass < crossings) {
            MOET_TRY(moet_candidates_add_crossed(race->candidates, race->problem, race->device));
        }
        if (pass >= crossings && counts[pass - crossings] == 0) {
            break;
        }
        if (is_cut(s)) {
            break;
        }
        int32_t count = pass < crossings ? 0 : find_centers(s, counts[pass - crossings], found);
        for (int32_t i = 0; i < count; i++) {
            MOET_TRY(moet_candidates_add_around(race->candidates, race->problem, race->device, found[i]));
        }
        MOET_TRY(find_stored(s, first));
        MOET_TRY(try_from(s, first, first, begin_part, begin_part + 0.8 * part));
        if (s->new_count > 0) {
            MOET_TRY(race_few(s, REFINE_ROUNDS, begin_part + 0.8 * part, begin_part + part));
        }
    }
    return MOET_OK;
}

/* Whether fewer than FINALISTS that serve the kind are faster. */
static bool is_among_best(const race_state *s, const moet_candidate *candidate, bool device_counts)
{
    int32_t faster = 0;
    for (int32_t i = 0; i < s->race->candidates->count; i++) {
        const moet_candidate *c = &s->race->candidates->items[i];
        faster += may_win(c) && (c->device_counts || !device_counts) && c->median_ns < candidate->median_ns;
    }
    return may_win(candidate) && faster < FINALISTS && (candidate->device_counts || !device_counts);
}

/* Step 4. */
static moet_status run_finals(race_state *s)
{
    const moet_race *race = s->race;
    int32_t finalists = 0;
    for (int32_t i = 0; i < race->candidates->count; i++) {
        moet_candidate *c = &race->candidates->items[i];
        bool wanted =
            is_timed(c) && (is_device_default(s, c) || is_among_best(s, c, false) || is_among_best(s, c, true));
        if (!wanted && is_live(s, c)) {
            MOET_TRY(drop(s, c));
        } else if (wanted && !is_live(s, c)) { /* stored by an earlier process, or dropped before others failed */
            MOET_TRY(add_candidate(s, c));
        }
        finalists += is_live(s, c);
        if (should_stop(s)) {
            return MOET_OK;
        }
    }
    if (finalists == 0) {
        return MOET_OK;
    }
    /* A racing sample that is not the final one must not be lost to a kill. One that fills would then be known, and not
     * be decided. */
    for (int32_t i = 0; i < race->candidates->count; i++) {
        moet_candidate *c = &race->candidates->items[i];
        if (is_live(s, c) && !c->stored && !race->fills) {
            MOET_TRY(put_subject(s, c, false));
        }
    }
    MOET_TRY(moet_worker_set_racing(race->worker, false));
    moet_worker_clear_samples(race->worker);
    double noise[MOST_FINAL_ROUNDS];
    const int32_t most = MORE_ROUNDS * race->final_rounds < MOST_FINAL_ROUNDS ? MORE_ROUNDS * race->final_rounds
                                                                              : MOST_FINAL_ROUNDS;
    for (int32_t i = 0; i < most || i < race->final_rounds; i++) {
        MOET_TRY(run_round(s));
        report(s, PART_REFINED + (1 - PART_REFINED) * (i + 1) / (i < race->final_rounds ? race->final_rounds : most));
        if (should_stop(s)) {
            return MOET_OK;
        }
        const moet_candidate *leader = find_leader(s, false, true);
        if (i < most) noise[i] = leader ? (double)leader->noise_ns / (double)leader->median_ns : 0;
        if (i + 1 >= race->final_rounds && i < most &&
            (moet_stats_is_settled(noise, i + 1, race->noise) || is_past_deadline(race))) {
            break;
        }
    }
    for (int32_t i = 0; i < race->candidates->count; i++) {
        moet_candidate *c = &race->candidates->items[i];
        if (is_live(s, c)) {
            MOET_TRY(put_subject(s, c, true));
        }
    }
    return MOET_OK;
}

/* Whether one that is new to the store may be the fastest of a kind. */
static bool has_new_finalist(const race_state *s)
{
    for (int32_t i = 0; i < s->race->candidates->count; i++) {
        const moet_candidate *c = &s->race->candidates->items[i];
        if (!is_live(s, c) || c->stored || !may_win(c)) continue; /* then there is a fastest */
        const moet_candidate *leader = find_leader(s, false, false), *other = find_leader(s, c->device_counts, false);
        if ((double)c->median_ns <= FILL_FACTOR * (double)leader->median_ns ||
            (double)c->median_ns <= FILL_FACTOR * (double)other->median_ns)
            return true;
    }
    return false;
}

/* Steps 3 and 4. */
static moet_status decide(race_state *s)
{
    if (!s->race->fills) MOET_TRY(refine(s));
    if (s->result->stopped) return MOET_OK;
    if (!s->race->fills || has_new_finalist(s)) return run_finals(s);
    for (int32_t i = 0; i < s->race->candidates->count; i++) {
        moet_candidate *c = &s->race->candidates->items[i];
        if (is_live(s, c)) MOET_TRY(drop(s, c));
    }
    return MOET_OK;
}

/* After a stop or an error: every trial that ended is kept, and what has samples, but where they are to be decided. */
static moet_status put_rest(race_state *s)
{
    for (int32_t i = 0; i < s->race->candidates->count; i++) {
        moet_candidate *c = &s->race->candidates->items[i];
        if (c->subject >= 0 && !is_live(s, c)) {
            MOET_TRY(put_failure(s, c));
        } else if (c->subject >= 0 && !c->stored && c->median_ns > 0 && !s->race->fills) {
            MOET_TRY(put_subject(s, c, false));
        }
    }
    return MOET_OK;
}

moet_status moet_race_run(const moet_race *race, moet_race_result *result, bool *of_store)
{
    *result = (moet_race_result){.effort = race->effort};
    race_state s = {.race = race, .result = result};
    char message[1024];
    moet_status status = find_stored(&s, 0);
    if (status == MOET_OK)
        status = moet_worker_set_workload(race->worker, race->problem, race->workload->counts, race->workload->tokens);
    if (status == MOET_OK) status = moet_worker_set_racing(race->worker, true);
    if (status == MOET_OK) status = try_from(&s, 0, moet_candidates_least(race->candidates), 0, PART_TRIED);
    if (status == MOET_OK && !result->stopped && s.new_count > 0)
        status = race_few(&s, RACE_ROUNDS, PART_TRIED, PART_RACED);
    if (status == MOET_OK) status = decide(&s);
    if (!s.of_store && (status != MOET_OK || result->stopped)) {
        snprintf(message, sizeof message, "%s", moet_last_error());
        moet_status kept = put_rest(&s);
        status = status == MOET_OK ? kept : moet_fail(status, "%s", message);
    }
    result->best = find_leader(&s, false, false);
    *of_store = s.of_store;
    return status;
}
