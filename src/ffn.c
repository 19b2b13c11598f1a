/* ffn: launches of plans of op FFN, as a whole and piece by piece. */
#include "record.h"

static moet_status check_op(const moet_plan *plan, const char *call)
{
    if (plan->problem.op == MOET_OP_FFN) return MOET_OK;
    return moet_fail(MOET_INVALID, "%s: the plan is of another op than ffn", call);
}

/* R, or the bound on it where only the device knows. */
static int64_t most_tokens(const moet_plan *plan, const moet_ffn_args *args)
{
    return args->device_tokens ? plan->options.max_tokens : args->tokens;
}

static moet_status check_tokens(const moet_plan *plan, const moet_ffn_args *args, const char *call)
{
    const int64_t tokens = most_tokens(plan, args);
    if (tokens < 0 || tokens > plan->options.max_tokens)
        return moet_fail(MOET_INVALID, "%s: %lld tokens, the plan was made for at most %lld", call, (long long)tokens,
                         (long long)plan->options.max_tokens);
    return MOET_OK;
}

/* A pointer that is needed, and its alignment. */
typedef struct pointer_rule {
    const char *name;
    const void *pointer;
    uintptr_t alignment;
    bool is_needed;
} pointer_rule;

/* A distance between tokens, in elements; 0 is a dense one. */
typedef struct stride_rule {
    const char *name;
    int64_t stride, least, step;
} stride_rule;

static moet_status check_pointers(const pointer_rule *rules, int32_t count, const char *call)
{
    for (int32_t i = 0; i < count; i++) {
        const pointer_rule *r = &rules[i];
        if (r->is_needed && !r->pointer) return moet_fail(MOET_INVALID, "%s: %s is NULL", call, r->name);
        if ((uintptr_t)r->pointer % r->alignment)
            return moet_fail(MOET_INVALID, "%s: %s must be %d-byte aligned", call, r->name, (int)r->alignment);
    }
    return MOET_OK;
}

static moet_status check_strides(const stride_rule *rules, int32_t count, const char *call)
{
    for (int32_t i = 0; i < count; i++) {
        const stride_rule *r = &rules[i];
        if (r->stride != 0 && (r->stride < r->least || r->stride % r->step))
            return moet_fail(MOET_INVALID, "%s: %s is %lld, must be 0 or at least %lld and a multiple of %lld", call,
                             r->name, (long long)r->stride, (long long)r->least, (long long)r->step);
    }
    return MOET_OK;
}

/* What permute reads: the choices, and the rows where they are gathered. */
static moet_status check_choices(const moet_plan *plan, const moet_ffn_args *args, bool gathers, const char *call)
{
    const int64_t hidden = plan->problem.hidden, choices = plan->options.choices;
    const pointer_rule pointers[] = {
        {"x", args->x, 16, gathers},
        {"ids", args->ids, args->ids_int64 ? 8 : 4, true},
        {"weights", args->weights, 4, plan->problem.prob != MOET_PROB_NONE},
        {"device_tokens", args->device_tokens, 4, false},
    };
    const stride_rule strides[] = {
        {"x_stride", args->x_stride, hidden, 8},
        {"ids_stride", args->ids_stride, choices, 1},
        {"weights_stride", args->weights_stride, choices, 1},
    };
    MOET_TRY(check_pointers(pointers, MOET_COUNT_OF(pointers), call));
    return check_strides(strides, MOET_COUNT_OF(strides), call);
}

static moet_status check_out(const moet_plan *plan, const moet_ffn_args *args, const char *call)
{
    const pointer_rule pointer = {"out", args->out, 16, true};
    const stride_rule stride = {"out_stride", args->out_stride, plan->problem.hidden, 8};
    MOET_TRY(check_pointers(&pointer, 1, call));
    return check_strides(&stride, 1, call);
}

static moet_status check_weights(const moet_plan *plan, const moet_ffn_args *args, const char *call)
{
    const pointer_rule pointers[] = {
        {"up", args->up, 16, true},
        {"up_bias", args->up_bias, 16, plan->problem.bias},
        {"down", args->down, 16, true},
        {"down_bias", args->down_bias, 16, plan->problem.down_bias},
    };
    return check_pointers(pointers, MOET_COUNT_OF(pointers), call);
}

/* rows: NULL, or where the experts' rows go instead of out. */
static moet_status launch(moet_plan *plan, const moet_ffn_args *args, const moet_ffn_rows *rows, const char *call)
{
    const bool on_device = plan->options.device_counts;
    moet_routing routing;
    moet_decision d;
    MOET_TRY(check_op(plan, call));
    MOET_TRY(check_tokens(plan, args, call));
    const int64_t tokens = most_tokens(plan, args);
    if (tokens == 0) return MOET_OK;
    MOET_TRY(moet_plan_decide(plan, args->counts, &routing, &d));
    if (!on_device && routing.max > tokens)
        return moet_fail(MOET_INVALID, "%s: counts give an expert %d rows of %lld tokens", call, routing.max,
                         (long long)tokens);
    /* Fewer tokens than the plan's have fewer rows at most: no more tiles than they need. */
    const int64_t choices = plan->options.choices, experts = plan->problem.experts;
    const int64_t most_rows = tokens * (choices < experts ? choices : experts);
    if (!on_device && routing.rows > most_rows)
        return moet_fail(MOET_INVALID, "%s: counts are %lld rows, %lld tokens have %lld at most", call,
                         (long long)routing.rows, (long long)tokens, (long long)most_rows);
    MOET_TRY(check_choices(plan, args, true, call));
    MOET_TRY(check_weights(plan, args, call));
    if (!rows) MOET_TRY(check_out(plan, args, call));
    if (!rows && args->out == args->x)
        return moet_fail(MOET_INVALID, "%s: out is x, which is read while it is written", call);
    MOET_TRY(moet_handle_enter(plan->handle));

    moet_ffn_args ffn = *args;
    if (!plan->problem.bias) ffn.up_bias = NULL;
    if (!plan->problem.down_bias) ffn.down_bias = NULL;
    moet_family_launch_args call_args = {.ffn = &ffn,
                                         .ffn_rows = rows,
                                         .counts = on_device ? NULL : args->counts,
                                         .counts_on_device = on_device,
                                         .rows = routing.rows < most_rows ? routing.rows : most_rows,
                                         .workspace = plan->workspace,
                                         .stream = args->stream};
    if (routing.rows > 0) moet_plan_count(plan, &d); /* else any configuration does, and none was looked up */
    moet_record_launch(plan, args->counts, &routing, args->device_tokens ? 0 : tokens, &d);
    moet_nvtx_begin(MOET_NVTX_LAUNCH, d.prepared->text, call_args.rows);
    return moet_nvtx_end(d.prepared->config.family->launch(d.prepared->state, &call_args));
}

moet_status moet_ffn(moet_plan *plan, const moet_ffn_args *args)
{
    MOET_NEED(plan);
    MOET_NEED(args);
    return launch(plan, args, NULL, "moet_ffn");
}

moet_status moet_ffn_rows_run(moet_plan *plan, const moet_ffn_args *args, const moet_ffn_rows *rows)
{
    return launch(plan, args, rows, "moet_ffn_rows_run");
}

/* ---- the pieces: the same with every configuration, so the default's state does ---- */

static const moet_prepared *any_prepared(const moet_plan *plan) { return &plan->prepared[plan->fallback]; }

moet_status moet_permute(moet_plan *plan, const moet_ffn_args *args, const moet_permuted *permuted)
{
    MOET_NEED(plan);
    MOET_NEED(args);
    MOET_NEED(permuted);
    static const char call[] = "moet_permute";
    const bool gathers = permuted->x != NULL;
    const pointer_rule pointers[] = {
        {"counts", permuted->counts, 4, true},  {"places", permuted->places, 4, false},
        {"rowmap", permuted->rowmap, 4, false}, {"source", permuted->source, 4, gathers},
        {"prob", permuted->prob, 4, false},     {"permuted x", permuted->x, 16, false},
    };
    MOET_TRY(check_op(plan, call));
    MOET_TRY(check_tokens(plan, args, call));
    MOET_TRY(check_pointers(pointers, MOET_COUNT_OF(pointers), call));
    if (most_tokens(plan, args) > 0) MOET_TRY(check_choices(plan, args, gathers, call));
    const moet_prepared *p = any_prepared(plan);
    return p->config.family->permute(p->state, args, permuted, plan->workspace);
}

moet_status moet_activate(moet_plan *plan, const void *up, const moet_permuted *permuted, void *out, void *stream)
{
    MOET_NEED(plan);
    MOET_NEED(permuted);
    static const char call[] = "moet_activate";
    const pointer_rule pointers[] = {
        {"up", up, 16, true},
        {"out", out, 16, true},
        {"counts", permuted->counts, 4, true},
        {"prob", permuted->prob, 4, plan->problem.prob == MOET_PROB_ADVANCE},
    };
    MOET_TRY(check_op(plan, call));
    MOET_TRY(check_pointers(pointers, MOET_COUNT_OF(pointers), call));
    const moet_prepared *p = any_prepared(plan);
    return p->config.family->activate(p->state, up, permuted, out, stream);
}

moet_status moet_unpermute(moet_plan *plan, const moet_ffn_args *args, const void *rows, const moet_permuted *permuted)
{
    MOET_NEED(plan);
    MOET_NEED(args);
    MOET_NEED(permuted);
    static const char call[] = "moet_unpermute";
    const pointer_rule pointers[] = {
        {"rows", rows, 16, true},
        {"places", permuted->places, 4, false},
        {"rowmap", permuted->rowmap, 4, !permuted->places},
        {"prob", permuted->prob, 4, plan->problem.prob == MOET_PROB_COMBINE},
        {"device_tokens", args->device_tokens, 4, false},
    };
    MOET_TRY(check_op(plan, call));
    MOET_TRY(check_tokens(plan, args, call));
    if (most_tokens(plan, args) == 0) return MOET_OK;
    MOET_TRY(check_pointers(pointers, MOET_COUNT_OF(pointers), call));
    MOET_TRY(check_out(plan, args, call));
    const moet_prepared *p = any_prepared(plan);
    return p->config.family->unpermute(p->state, args, rows, permuted);
}
