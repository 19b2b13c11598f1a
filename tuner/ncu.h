/* ncu: counters of kernels as Nsight Compute prints them, `ncu --csv --page raw`: a row of names, a row of units, a row
 * a kernel. */
#ifndef MOET_NCU_H
#define MOET_NCU_H

#include "../src/moet.h"

/* How a number of several kernels is made of theirs. */
typedef enum moet_ncu_join {
    MOET_NCU_SUM,
    MOET_NCU_MEAN, /* weighted by the kernels' times */
    MOET_NCU_MOST
} moet_ncu_join;

/* What is asked for: our name, ncu's, how kernels are joined. What an architecture lacks ncu gives as "n/a". */
#define MOET_NCU_TABLE(X)                                                                                              \
    X(TIME_NS, "gpu__time_duration.sum", SUM)                                                                          \
    X(CYCLES, "sm__cycles_elapsed.max", SUM)                                                                           \
    X(TENSOR_PCT, "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed", MEAN)                             \
    X(L2_PCT, "lts__throughput.avg.pct_of_peak_sustained_elapsed", MEAN)                                               \
    X(L2_PORTS_PCT, "lts__lts2xbar_cycles_active.avg.pct_of_peak_sustained_elapsed", MEAN)                             \
    X(L2_LINK_PCT, "lts__ltcfabric2ltc_cycles_active.avg.pct_of_peak_sustained_elapsed", MEAN)                         \
    X(L2_HIT_PCT, "lts__t_sector_hit_rate.pct", MEAN)                                                                  \
    X(HBM_PCT, "dram__throughput.avg.pct_of_peak_sustained_elapsed", MEAN)                                             \
    X(HBM_READ_BYTES, "dram__bytes_read.sum", SUM)                                                                     \
    X(HBM_WRITTEN_BYTES, "dram__bytes_write.sum", SUM)                                                                 \
    X(ISSUE_PCT, "smsp__issue_active.avg.pct_of_peak_sustained_elapsed", MEAN)                                         \
    X(SM_ACTIVE_PCT, "sm__cycles_active.avg.pct_of_peak_sustained_elapsed", MEAN)                                      \
    X(REGISTERS, "launch__registers_per_thread", MOST)                                                                 \
    X(SM_COUNT, "device__attribute_multiprocessor_count", MOST)                                                        \
    X(STALL_BARRIER, "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio", MEAN)                         \
    X(STALL_BRANCH, "smsp__average_warps_issue_stalled_branch_resolving_per_issue_active.ratio", MEAN)                 \
    X(STALL_DISPATCH, "smsp__average_warps_issue_stalled_dispatch_stall_per_issue_active.ratio", MEAN)                 \
    X(STALL_DRAIN, "smsp__average_warps_issue_stalled_drain_per_issue_active.ratio", MEAN)                             \
    X(STALL_GMMA, "smsp__average_warps_issue_stalled_gmma_per_issue_active.ratio", MEAN)                               \
    X(STALL_LG, "smsp__average_warps_issue_stalled_lg_throttle_per_issue_active.ratio", MEAN)                          \
    X(STALL_LONG, "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio", MEAN)                    \
    X(STALL_MATH, "smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio", MEAN)                 \
    X(STALL_MEMBAR, "smsp__average_warps_issue_stalled_membar_per_issue_active.ratio", MEAN)                           \
    X(STALL_MIO, "smsp__average_warps_issue_stalled_mio_throttle_per_issue_active.ratio", MEAN)                        \
    X(STALL_NO_INSTRUCTION, "smsp__average_warps_issue_stalled_no_instruction_per_issue_active.ratio", MEAN)           \
    X(STALL_SHORT, "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio", MEAN)                  \
    X(STALL_SLEEPING, "smsp__average_warps_issue_stalled_sleeping_per_issue_active.ratio", MEAN)                       \
    X(STALL_WAIT, "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio", MEAN)
typedef enum moet_ncu_metric {
#define MOET_X(name, text, join) MOET_NCU_##name,
    MOET_NCU_TABLE(MOET_X)
#undef MOET_X
        MOET_NCU_METRIC_COUNT
} moet_ncu_metric;
#define MOET_NCU_FIRST_STALL MOET_NCU_STALL_BARRIER

const char *moet_ncu_metric_name(moet_ncu_metric metric);
/* "long scoreboard" of a stall. */
void moet_ncu_stall_name(moet_ncu_metric stall, char text[32]);
/* All names with commas between, as --metrics takes them; malloc'd, NULL without memory. */
char *moet_ncu_metric_list(void);

typedef struct moet_ncu_kernel {
    char name[128];
    double values[MOET_NCU_METRIC_COUNT]; /* ns, bytes, cycles, percent; NaN: not there */
} moet_ncu_kernel;

typedef struct moet_ncu_report {
    int32_t count; /* at least 1 */
    moet_ncu_kernel *kernels;
    moet_ncu_kernel joined; /* all of them; name: of the one that takes longest */
} moet_ncu_report;
void moet_ncu_report_release(moet_ncu_report *report);

/* Reads ncu's output, whose lines before the names are messages. `where` is named in errors. UNSUPPORTED: ncu was not
 * allowed to read counters, and says how to allow it; NOT_FOUND: it saw no kernel; MALFORMED: the line. */
moet_status moet_ncu_parse(const char *text, const char *where, moet_ncu_report *report);

/* What the messages of ncu and of the program under it mean where there is nothing to read: UNSUPPORTED as above, else
 * DEVICE with the program's error line, else ncu's "==ERROR==" line, else the last one. */
moet_status moet_ncu_explain(const char *messages);

#endif
