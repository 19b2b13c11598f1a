/* why.c: see why.h. */
#include "why.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BINDS_PCT 80   /* of a ceiling's peak: little is left above */
#define NEAR_PCT 60    /* below, no ceiling is what holds a launch */
#define TAIL_SHARE 0.1 /* of the SMs' time: worth mending */
#define PADDING_SHARE 0.08
#define TWICE_READ 1.25 /* HBM bytes by those of each operand once */
#define TOP_STALLS 4

static const char *const bound_texts[] = {
#define MOET_X(name, text) text,
    MOET_BOUND_TABLE(MOET_X)
#undef MOET_X
};
const char *moet_bound_text(moet_bound bound) { return bound_texts[bound]; }

static const moet_ncu_metric ceilings[4] = {MOET_NCU_TENSOR_PCT, MOET_NCU_L2_PCT, MOET_NCU_HBM_PCT, MOET_NCU_ISSUE_PCT};

static double value_of(const moet_why_launch *launch, moet_ncu_metric metric)
{
    return launch->report->joined.values[metric];
}

/* HBM's bytes by those of each operand once; NaN unknown. */
static double read_factor(const moet_why_launch *launch)
{
    return (value_of(launch, MOET_NCU_HBM_READ_BYTES) + value_of(launch, MOET_NCU_HBM_WRITTEN_BYTES)) /
           moet_problem_bytes(launch->problem, &launch->routing);
}

/* What SMs waited at the end: as counted, else by the schedule. */
static double tail_share(const moet_why_launch *launch)
{
    const double active = value_of(launch, MOET_NCU_SM_ACTIVE_PCT);
    const double counted = isnan(active) ? 0 : 1 - active / 100;
    const double planned = launch->has_schedule ? launch->schedule.tail_share : 0;
    return counted > planned ? counted : planned;
}

/* ---- suggestions ---- */

typedef bool (*applies)(const moet_why_launch *launch);

static bool always(const moet_why_launch *launch)
{
    (void)launch;
    return true;
}

static bool is_padded(const moet_why_launch *launch)
{
    return launch->has_schedule && launch->schedule.padding_share >= PADDING_SHARE;
}

static bool reads_twice(const moet_why_launch *launch) { return read_factor(launch) > TWICE_READ; }

/* Elements of a tile "128x256". */
static int64_t tile_area(const char *text)
{
    char *end = NULL;
    const int64_t rows = strtoll(text, &end, 10);
    return *end == 'x' ? rows * strtoll(end + 1, NULL, 10) : 0;
}

/* Of the tiles that the family has, a path's up GEMM's. */
static bool has_larger_tile(const moet_why_launch *launch)
{
    const moet_family *family = launch->config->family;
    for (int32_t i = 0; i < family->param_count; i++) {
        const char *own = family->params[i].name;
        if (strcmp(own, "tile") != 0 && strcmp(own, "up_tile") != 0) {
            continue;
        }
        for (int32_t v = 0; family->params[i].values[v] != NULL; v++) {
            if (tile_area(family->params[i].values[v]) > tile_area(moet_config_text(launch->config, i))) {
                return true;
            }
        }
    }
    return false;
}

/* L2's ports, rather than the link between its halves, for which no parameter is known. */
static bool ports_bind(const moet_why_launch *launch)
{
    const double link = value_of(launch, MOET_NCU_L2_LINK_PCT);
    return isnan(link) || value_of(launch, MOET_NCU_L2_PORTS_PCT) >= link;
}

static bool is_skewed(const moet_why_launch *launch) { return launch->routing.max_over_mean >= 2; }

/* Which parameter may move what binds. values: where it would be moved to, and NULL where it is to be seen; a config
 * that is there already is not told so. */
static const struct {
    moet_bound bound;
    applies when;
    const char *param, *value, *advice;
} advices[] = {
    {MOET_BOUND_TENSOR, is_padded, "mode", "swap", "mode=swap pads rows to 16 instead of 64"},
    {MOET_BOUND_TENSOR, is_padded, "tile", NULL, "a tile of fewer rows or columns, as padding is multiplied too"},
    {MOET_BOUND_L2, ports_bind, "cluster", "1x2", "cluster=1x2 or 2x1, whose CTAs share copies of x or w"},
    {MOET_BOUND_L2, has_larger_tile, "tile", NULL, "a larger tile, which reads fewer bytes an operation"},
    {MOET_BOUND_L2, always, "group", NULL, "another group: how many row tiles share a tile of w"},
    {MOET_BOUND_HBM, reads_twice, "group", NULL, "a larger group, so that weights are read once"},
    {MOET_BOUND_HBM, is_skewed, "order", "mixed", "order=mixed, which puts light experts beside heavy ones"},
    {MOET_BOUND_ISSUE, always, "store", "bulk", "store=bulk, which takes fewer instructions"},
    {MOET_BOUND_ISSUE, has_larger_tile, "tile", NULL, "a larger tile, whose loop is a larger part of the instructions"},
    {MOET_BOUND_TAIL, is_skewed, "order", "front", "order=front, which begins no long tile last"},
    {MOET_BOUND_TAIL, always, "tile", NULL, "a smaller tile: more of them spread more evenly"},
    {MOET_BOUND_TAIL, always, "cluster", "1x1", "cluster=1x1, where no CTA waits for its pair"},
    {MOET_BOUND_LATENCY, always, "mode", "pingpong", "mode=pingpong, which stores a tile under the next one's math"},
    {MOET_BOUND_LATENCY, always, "stages", NULL, "more stages, so that copies run further ahead"},
    {MOET_BOUND_LATENCY, always, "tile", NULL, "a smaller tile, of which more are resident"},
};

static const char *const nothing_left[] = {
    [MOET_BOUND_TENSOR] = "the math itself binds: only a higher clock (power limit) is left",
    [MOET_BOUND_L2] = "its family has no parameter for that: try another family (moe-tune sweep)",
    [MOET_BOUND_HBM] = "each operand moves about once: only fewer bytes are left",
    [MOET_BOUND_ISSUE] = "its family has no parameter for that: try another family (moe-tune sweep)",
    [MOET_BOUND_TAIL] = "its family has no parameter for that: try another family (moe-tune sweep)",
    [MOET_BOUND_LATENCY] = "its family has no parameter for that: try another family (moe-tune sweep)",
};

/* The value of a parameter, of a path's up GEMM first; NULL where the family has none of the name or no such value. */
static const char *find_param(const moet_config *config, const char *name, const char *value)
{
    const moet_family *family = config->family;
    for (int32_t i = 0; i < family->param_count; i++) {
        const char *own = family->params[i].name;
        if (strcmp(own, name) != 0 && !(strncmp(own, "up_", 3) == 0 && strcmp(own + 3, name) == 0)) {
            continue;
        }
        bool exists = value == NULL;
        for (int32_t v = 0; !exists && family->params[i].values[v] != NULL; v++) {
            exists = strcmp(family->params[i].values[v], value) == 0;
        }
        return exists ? moet_config_text(config, i) : NULL;
    }
    return NULL;
}

static void suggest(const moet_why_launch *launch, moet_bound bound, char *text, size_t size)
{
    size_t used = 0;
    for (int32_t i = 0; i < MOET_COUNT_OF(advices); i++) {
        const char *value = advices[i].bound == bound && advices[i].when(launch)
                                ? find_param(launch->config, advices[i].param, advices[i].value)
                                : NULL;
        const bool is_there = value != NULL && advices[i].value != NULL && strcmp(value, advices[i].value) == 0;
        if (value == NULL || is_there || used >= size) {
            continue;
        }
        used += (size_t)snprintf(text + used, size - used, "%s%s (now %s=%s)", used > 0 ? "; " : "try ",
                                 advices[i].advice, advices[i].param, value);
    }
    if (used == 0) {
        snprintf(text, size, "%s", nothing_left[bound]);
    }
}

void moet_why_judge(const moet_why_launch *launch, moet_why_verdict *verdict)
{
    const double tail = tail_share(launch);
    moet_why_verdict v = {.bound = MOET_BOUND_LATENCY};
    int32_t highest = -1;
    for (int32_t i = 0; i < 4; i++) {
        v.achieved_pct[i] = value_of(launch, ceilings[i]);
        if (!isnan(v.achieved_pct[i]) && (highest < 0 || v.achieved_pct[i] > v.achieved_pct[highest])) {
            highest = i;
        }
    }
    const double most = highest < 0 ? 0 : v.achieved_pct[highest];
    if (most >= BINDS_PCT) {
        v.bound = (moet_bound)highest;
        v.is_clear = true;
    } else if (tail >= TAIL_SHARE && tail < 1 && most / (1 - tail) >= NEAR_PCT) {
        v.bound = MOET_BOUND_TAIL; /* while SMs are busy they are near a ceiling */
        v.is_clear = most / (1 - tail) >= BINDS_PCT;
    } else if (most >= NEAR_PCT) {
        v.bound = (moet_bound)highest;
    } else if (tail >= 2 * TAIL_SHARE) {
        v.bound = MOET_BOUND_TAIL;
    } else {
        v.is_clear = true;
    }
    suggest(launch, v.bound, v.suggestion, sizeof v.suggestion);
    *verdict = v;
}

/* ---- print ---- */

/* "57.2 %", or "unknown" where ncu gave no number. */
static const char *percent(double value, char text[24])
{
    if (isnan(value)) {
        return "unknown";
    }
    snprintf(text, 24, "%.1f %%", value);
    return text;
}

static void print_stalls(const moet_why_launch *launch)
{
    double shares[MOET_NCU_METRIC_COUNT] = {0}, sum = 0;
    for (int32_t m = MOET_NCU_FIRST_STALL; m < MOET_NCU_METRIC_COUNT; m++) {
        const double value = value_of(launch, (moet_ncu_metric)m);
        shares[m] = isnan(value) ? 0 : value;
        sum += shares[m];
    }
    printf("stalls       ");
    for (int32_t i = 0; i < TOP_STALLS && sum > 0; i++) {
        int32_t top = MOET_NCU_FIRST_STALL;
        for (int32_t m = top + 1; m < MOET_NCU_METRIC_COUNT; m++) {
            top = shares[m] > shares[top] ? m : top;
        }
        if (shares[top] <= 0) {
            break;
        }
        char name[32];
        moet_ncu_stall_name((moet_ncu_metric)top, name);
        printf("%s%s %.0f %%", i > 0 ? ", " : "", name, 100 * shares[top] / sum);
        shares[top] = 0;
    }
    puts(sum > 0 ? " of the warps' waiting" : "unknown");
}

void moet_why_print(const moet_why_launch *launch, const moet_why_verdict *verdict)
{
    const moet_ncu_report *report = launch->report;
    char config[MOET_CONFIG_SIZE], a[24], b[24], c[24];
    const double time_ns = value_of(launch, MOET_NCU_TIME_NS), cycles = value_of(launch, MOET_NCU_CYCLES);
    moet_config_format(launch->config, config);
    printf("%s: %s\n", launch->workload, config);
    printf("counted      %d kernel%s, %.1f us at %.0f MHz under ncu, which is no trial's time; the longest is %.60s\n",
           report->count, report->count == 1 ? "" : "s", time_ns / 1e3, cycles / time_ns * 1e3, report->joined.name);
    printf("tensor pipe  %s of its peak\n", percent(verdict->achieved_pct[0], a));
    printf("L2           %s of its peak; ports to the SMs %s, link between its halves %s",
           percent(verdict->achieved_pct[1], a), percent(value_of(launch, MOET_NCU_L2_PORTS_PCT), b),
           percent(value_of(launch, MOET_NCU_L2_LINK_PCT), c));
    printf(", hits %s\n", percent(value_of(launch, MOET_NCU_L2_HIT_PCT), a));
    printf("HBM          %s of its peak; %.2f GB read, %.2f GB written, %.2f times each operand once\n",
           percent(verdict->achieved_pct[2], a), value_of(launch, MOET_NCU_HBM_READ_BYTES) / 1e9,
           value_of(launch, MOET_NCU_HBM_WRITTEN_BYTES) / 1e9, read_factor(launch));
    printf("issue        %s of its peak; %.0f registers a thread\n", percent(verdict->achieved_pct[3], a),
           value_of(launch, MOET_NCU_REGISTERS));
    if (launch->has_schedule) {
        const moet_schedule *s = &launch->schedule;
        printf(
            "tiles        %lld in %.2f waves: padding is %.1f %% of what they multiply, the tail %.1f %% of the SMs' "
            "time; counted idle %s\n",
            (long long)s->tiles, s->waves, 100 * s->padding_share, 100 * s->tail_share,
            percent(100 - value_of(launch, MOET_NCU_SM_ACTIVE_PCT), a));
    } else {
        printf("tiles        not to be known, a vendor library chooses them; counted idle %s of the SMs' time\n",
               percent(100 - value_of(launch, MOET_NCU_SM_ACTIVE_PCT), a));
    }
    print_stalls(launch);
    printf("%s %s\n", verdict->is_clear ? "binds       " : "nearest     ", moet_bound_text(verdict->bound));
    printf("next         %s\n", verdict->suggestion);
}
