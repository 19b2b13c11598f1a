/* session: the inside of a bench, shared by the files of bench/. bench.h is what others use.
 *
 *   session.c   the bench: subjects, rounds, reading trials
 *   buffers.c   a workload's memory and inputs
 *   path.c      of op FFN: which tokens go to which experts
 *   oracle.c    what a workload's result must be
 *   path_reference.c  the same, of op FFN
 *   verify.c    whether a subject computes the right thing
 *   measure.c   how long a subject takes: one sample
 *   ceilings.c  the subjects that give the device's dense and memory rates
 *   trial.c     what became of a subject, and what its samples say
 *   list.c      configs that only a vendor library can enumerate
 *   stats.c     medians */
#ifndef MOET_BENCH_SESSION_H
#define MOET_BENCH_SESSION_H

#include "../kernels/ops.h"
#include "../src/nvtx.h"
#include "bench.h"

/* Marsaglia's xorshift: the next of a state that is never 0. */
static inline uint64_t moet_xorshift(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* ---- measure.c: something that can be timed ---- */

typedef struct moet_runner {
    moet_status (*launch)(void *context, int32_t set); /* enqueues one call on buffer set `set` on the bench's stream */
    void *context;
    int32_t set_count;
    int32_t calls;    /* in a sample */
    int32_t next_set; /* eager: where the next call goes on */
    void *graph;      /* NULL: eager */
} moet_runner;

/* Chooses calls for a sample whose calls take about call_us, and captures them where both the device and the launch
 * can. whole_cycles: every set equally often, as what is reported wants it; otherwise as few calls as the time asks
 * for. launch, context and set_count are set. */
moet_status moet_runner_prepare(moet_bench *bench, moet_runner *runner, bool capturable, bool whole_cycles,
                                double call_us);
/* One sample: an untimed replay, then a timed one, then a pause. *sm_mhz: the clock during the pause; 0: unknown. */
moet_status moet_runner_sample(moet_bench *bench, moet_runner *runner, int64_t *time_ns, int32_t *sm_mhz);
/* Samples' work without their pauses, one after the other, until the time has passed. */
moet_status moet_runner_sustain(moet_bench *bench, moet_runner *runner, int64_t time_ns);
void moet_runner_release(moet_bench *bench, moet_runner *runner);

/* ---- ceilings.c ---- */

#define MOET_CEILING_COUNT 4 /* dense kn, dense nk, copy, read: the order of moet_sample's fields */
typedef struct moet_ceiling_set moet_ceiling_set;
moet_status moet_ceiling_set_create(moet_bench *bench, moet_ceiling_set **set);
void moet_ceiling_set_destroy(moet_bench *bench, moet_ceiling_set *set);
moet_runner *moet_ceiling_runner(moet_ceiling_set *set, int32_t index);
/* Keeps one round's times among the latest 128. */
void moet_ceiling_push(moet_ceiling_set *set, const int64_t times_ns[MOET_CEILING_COUNT]);
/* Medians of the rounds kept, 0 each where there are none. */
void moet_ceiling_medians(const moet_ceiling_set *set, int64_t medians_ns[MOET_CEILING_COUNT]);
moet_ceiling_work moet_ceiling_set_work(const moet_ceiling_set *set);
moet_ceilings moet_ceiling_rates(const moet_ceiling_work *work, const int64_t medians_ns[MOET_CEILING_COUNT]);
/* The shortest time these rates allow; 0 where a rate is unknown. */
double moet_ceiling_floor_ns(const moet_ceilings *ceilings, double flops, double bytes);

/* ---- buffers.c ---- */

#define MOET_MAX_SETS 4
#define MOET_SPREAD_SET MOET_MAX_SETS /* set 0 with x of several scales: never timed, its bits are part of the class */
#define MOET_MAX_RIGHT_BITS 64

typedef struct moet_buffer_set {
    void *x, *w, *bias;     /* FFN: the up GEMM's w and bias; a bias is NULL where the problem has none */
    void *down, *down_bias; /* FFN */
    void *out;              /* inside out_block, with poisoned guards before and behind */
    void *out_block;
} moet_buffer_set;

/* Elements whose values are known from the C reference: every listed column of every listed row. */
typedef struct moet_oracle {
    int32_t row_count, column_count;
    int64_t *rows;            /* ascending */
    int32_t *columns;         /* ascending */
    double *expected, *bound; /* [row_count][column_count] */
} moet_oracle;

/* What tokens chose, of op FFN. */
typedef struct moet_path_choices {
    int32_t count;                   /* k */
    int32_t *ids, *device_ids;       /* [R, k] */
    float *weights, *device_weights; /* [R, k] */
} moet_path_choices;

/* A workload on the device. */
typedef struct moet_buffers {
    moet_problem problem;
    moet_routing routing;
    int32_t *counts;        /* host */
    int32_t *device_counts; /* the same on the device */
    int32_t set_count;
    moet_buffer_set sets[MOET_MAX_SETS + 1];
    size_t x_bytes, w_bytes, bias_bytes, down_bytes, down_bias_bytes, out_bytes;
    size_t guard_bytes;           /* behind the output */
    float *reference, *magnitude; /* [M, N] of set 0; FFN: [R, H] */
    moet_oracle oracle;           /* of set 0 */
    moet_path_choices choices;    /* of all sets */
} moet_buffers;

#define MOET_FRONT_GUARD_BYTES 4096
#define MOET_POISON 0xff /* two of them are a BF16 NaN */

/* Fills bench->buffers; keeps weights of the same shape. On an error nothing is left. */
moet_status moet_buffers_set(moet_bench *bench, const moet_problem *problem, const int32_t *counts, int64_t tokens);
void moet_buffers_release(moet_bench *bench);

/* Device memory that all subjects share: only one runs at a time. Grows; what earlier graphs captured stays valid until
 * the workload changes. *workspace is NULL where size_bytes is 0. */
moet_status moet_bench_workspace(moet_bench *bench, size_t size_bytes, void **workspace);
/* Fills the whole shared workspace with a byte: its contents at a launch are unspecified. */
moet_status moet_bench_scribble_workspace(moet_bench *bench, uint8_t byte);
void moet_bench_release_workspaces(moet_bench *bench);

/* ---- path.c ---- */

/* How many choices a token has; INVALID or UNSUPPORTED where the routing's tokens cannot have its rows. */
moet_status moet_path_check(const moet_routing *routing, int32_t *choices);
/* Draws bench->buffers.choices, whose count is set, by the seed: expert e is chosen by counts[e] tokens, and tokens'
 * numbers of experts differ by one at most. */
moet_status moet_path_choices_create(moet_bench *bench);
void moet_path_choices_release(moet_bench *bench);
moet_ffn_args moet_path_args(const moet_bench *bench, int32_t set, bool device_counts);

/* ---- path_reference.c ---- */

/* Fills reference, magnitude and oracle of bench->buffers, of op FFN. Overwrites set 0's output. */
moet_status moet_path_reference(moet_bench *bench);

/* ---- oracle.c ---- */

/* The worst element of an array that was checked against the oracle; error > 1: wrong. */
typedef struct moet_finding {
    double error;
    int64_t row;
    int32_t column;
    double got, expected, bound;
} moet_finding;

/* Fills bench->buffers.oracle and checks the device's reference by it: WRONG where they disagree. */
moet_status moet_oracle_create(moet_bench *bench);
void moet_oracle_release(moet_oracle *oracle);
moet_status moet_oracle_check(moet_bench *bench, const uint16_t *out, moet_finding *worst);

/* ---- verify.c ---- */

/* A timed launch of set 0, awaited. */
moet_status moet_launch_once(moet_bench *bench, const moet_runner *runner, double *time_us);
/* Runs set 0 and sets the trial's status (OK, WRONG, FAILED), reason, error and bit class; *call_us is the launch's
 * time. An error status is the bench's own. */
moet_status moet_verify_launch(moet_bench *bench, const moet_runner *runner, moet_trial *trial, double *call_us);
/* Runs set 0 again, by the runner's graph if it has one: on other workspace contents it must give the verified bits. */
moet_status moet_verify_again(moet_bench *bench, const moet_runner *runner, moet_trial *trial);

/* ---- session.c ---- */

typedef struct moet_subject {
    moet_bench *bench;
    int32_t index;    /* in bench->subjects */
    moet_trial trial; /* samples and cubin are owned; derived numbers are computed when it is read */
    int32_t sample_capacity;
    const moet_nvtx_text *text; /* of the trial's ranges */
    bool active;
    bool capturable;
    bool is_prepared; /* the runner: done when the first sample is wanted */
    double call_us;   /* the verified launch's time */
    moet_runner runner;
    /* a configuration */
    moet_config config;
    void *state;
    void *workspace;
    /* or a launcher */
    moet_bench_launcher launcher;
    moet_bench_path_launcher path_launcher;
    void *launcher_context;
} moet_subject;

struct moet_bench {
    moet_device *device;
    moet_ops *ops;
    void *stream, *begin, *end, *spun;
    void *sink; /* MOET_OPS_SINK_BYTES of device memory */
    uint64_t seed, order_state;
    moet_bench_watch watch; /* NULL: nobody */
    void *watch_context;
    moet_ceiling_set *ceilings; /* NULL: none */
    bool has_workload;
    moet_buffers buffers;
    int32_t workspace_count, workspace_capacity;
    void **workspaces; /* the last one is current */
    size_t workspace_bytes;
    int32_t subject_count, subject_capacity;
    moet_subject **subjects;
    int32_t round;
    bool is_racing; /* samples may be short */
    /* Bits of results on this workload that agreed with the oracle: the same bits need not be checked again. */
    int32_t right_count;
    uint64_t right_bits[MOET_MAX_RIGHT_BITS];
    double right_error[MOET_MAX_RIGHT_BITS];
};

/* Tells the bench's watch what comes now; subject NULL: the bench's own. */
void moet_bench_step(const moet_bench *bench, const moet_subject *subject, moet_step step);
/* MOET_OK, or DEVICE where the device no longer takes work: the calling process cannot go on with it. */
moet_status moet_bench_check_device(moet_bench *bench);

/* measure.c: the range of work on a trial, its verification and each of its samples, which moet_nvtx_end ends. */
void moet_subject_begin_range(const moet_subject *subject);

#endif
