/* The table that would be emitted is written beside, rechecked there and removed. See rerun.h. */
#include "rerun.h"

#include <stdio.h>

#include "child.h"
#include "command.h"
#include "progress.h"
#include "recheck.h"

#define ROUNDS 11

typedef struct rerun_state {
    moet_rerun counted;
    int32_t wrong, points;
    moet_progress progress;
} rerun_state;

static void tell_before(void *context, double part, const moet_recheck_entry *first)
{
    rerun_state *s = context;
    moet_progress_update(&s->progress, part * s->points, "under load: %s %lld rows %s", first->workload,
                         (long long)first->point->rows, first->skew);
}

static void tell_entry(void *context, const moet_recheck_entry *e)
{
    rerun_state *s = context;
    const moet_recheck_time *winner = &e->times[MOET_CONTENDER_WINNER], *standard = &e->times[MOET_CONTENDER_DEFAULT];
    char what[256];
    s->counted.entries += e->verdict != MOET_VERDICT_STALE && e->verdict != MOET_VERDICT_LEFT;
    s->counted.reranked += e->verdict == MOET_VERDICT_LOST || e->verdict == MOET_VERDICT_FAILED;
    s->wrong += e->verdict == MOET_VERDICT_WRONG;
    if (e->verdict == MOET_VERDICT_HOLDS) {
        return;
    }
    moet_progress_clear(&s->progress);
    snprintf(what, sizeof what, "%s %lld rows %s %s %s", e->workload, (long long)e->point->rows, e->skew,
             moet_op_text(e->problem->problem.op), moet_store_kind_name(e->kind));
    if (e->verdict == MOET_VERDICT_LOST) {
        moet_command_note("%s: under load the default is faster, %.2f us (%s) against %.2f us (%s)", what,
                          (double)standard->median_ns / 1e3, standard->config, (double)winner->median_ns / 1e3,
                          winner->config);
    } else {
        moet_command_note("%s: %s: %s: %s", what, moet_verdict_name(e->verdict), winner->config, e->reason);
    }
}

static moet_status run_table(const char *dir, const char *device, rerun_state *s)
{
    const moet_recheck_options options = {.table = dir,
                                          .device = device,
                                          .seed = 1,
                                          .rounds = ROUNDS,
                                          .sustain_ns = MOET_RERUN_SUSTAIN_NS,
                                          .no_runner_up = true};
    const moet_recheck_visitor visitor = {tell_before, tell_entry, s};
    moet_recheck *recheck = NULL;
    MOET_TRY(moet_recheck_open(&options, &recheck));
    s->points = moet_recheck_points(recheck);
    moet_progress_begin(&s->progress, stderr, s->points);
    moet_status status = moet_recheck_run(recheck, &visitor);
    moet_progress_end(&s->progress);
    moet_recheck_close(recheck);
    return status;
}

moet_status moet_rerun_winners(moet_store *store, const moet_emit_options *emit, const char *device, moet_rerun *rerun)
{
    rerun_state s = {0};
    moet_emitted emitted;
    char dir[MOET_CHILD_FOLDER_SIZE];
    MOET_TRY(moet_child_folder_make(dir));
    moet_status status = moet_emit(store, dir, emit, &emitted);
    if (status == MOET_OK) status = run_table(dir, device, &s);
    if (status == MOET_OK && s.wrong > 0) {
        status = moet_fail(MOET_WRONG, "%d winners or their defaults compute wrong: nothing was emitted", s.wrong);
    }
    moet_child_folder_remove(dir); /* a table has files only */
    if (status == MOET_OK) *rerun = s.counted;
    return status;
}
