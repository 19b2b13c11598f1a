#include "problem_options.h"

#include <stdio.h>
#include <stdlib.h>

#include "command.h"

#define MOST_DECIMALS 30 /* behind "0.": 32 characters, as many as moet_parse_decimal reads */
#define DECIMAL_SIZE 352 /* of any double, printed with so many */

/* Above those of the commands. */
enum option_key {
    KEY_OPS = 1024,
    KEY_LAYOUT,
    KEY_NUMERICS,
    KEY_BIAS,
    KEY_ACTIVATION,
    KEY_CLAMP,
    KEY_PROB,
    KEY_COMBINE
};

static const struct argp_option options[] = {
    {.name = "ops", .key = KEY_OPS, .arg = "LIST", .doc = "up, down, ffn (default up,down; of a dump: what it is)"},
    {.name = "layout",
     .key = KEY_LAYOUT,
     .arg = "LIST",
     .doc = "Weights as nk, kn (default nk; of a dump: as it fits)"},
    {.name = "numerics", .key = KEY_NUMERICS, .arg = "MODE", .doc = "train or fast (default train)"},
    {.name = "bias",
     .key = KEY_BIAS,
     .arg = "yes|no|up|down",
     .flags = OPTION_ARG_OPTIONAL,
     .doc = "Which GEMMs have one; a value follows the '=' at once, without one it is yes (default no; of models and "
            "dumps: as they have it)"},
    {.name = "activation",
     .key = KEY_ACTIVATION,
     .arg = "NAME",
     .doc = "Op ffn: swiglu, swiglu_clamp, gpt_oss (default swiglu)"},
    {.name = "clamp", .key = KEY_CLAMP, .arg = "C", .doc = "Op ffn: the bound of swiglu_clamp, which needs one"},
    {.name = "prob",
     .key = KEY_PROB,
     .arg = "WHERE",
     .doc = "Op ffn: router weights at none, advance (the activation), combine (default advance)"},
    {.name = "combine",
     .key = KEY_COMBINE,
     .arg = "HOW",
     .doc = "Op ffn: exact, paddle (a token's only local expert unweighted; needs --prob combine; default exact)"},
    {0}};

/* Options that contradict each other, by their names: the library would speak of the problem's fields. */
static void check_together(const moet_problem_options *o, struct argp_state *state)
{
    const bool is_clamped = o->activation == MOET_ACTIVATION_SWIGLU_CLAMP;
    if (is_clamped && o->clamp == 0) {
        argp_error(state, "--activation swiglu_clamp needs --clamp C, with C above 0");
    } else if (!is_clamped && o->clamp != 0) {
        argp_error(state, "--clamp needs --activation swiglu_clamp, the only one that it is for");
    } else if (o->combine == MOET_COMBINE_PADDLE && o->prob != MOET_PROB_COMBINE) {
        argp_error(state, "--combine paddle needs --prob combine: only there it differs from exact");
    }
}

/* `--bias up` are an option without its value and an argument, which no command takes. */
static bool is_value_of_bias(const moet_problem_options *o, const char *arg)
{
    bool up, down;
    return o->bias_bare && moet_parse_bias(arg, "--bias", &up, &down) == MOET_OK;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    moet_problem_options *o = state->input;
    moet_status status = MOET_OK;
    switch (key) {
    case KEY_OPS:
        status = moet_parse_ops(arg, "--ops", &o->ops);
        break;
    case KEY_LAYOUT:
        status = moet_parse_layouts(arg, "--layout", &o->layouts);
        break;
    case KEY_NUMERICS:
        status = moet_parse_numerics(arg, "--numerics", &o->numerics);
        break;
    case KEY_BIAS:
        status = moet_parse_bias(arg, "--bias", &o->bias, &o->down_bias);
        o->bias_given = true;
        o->bias_bare = arg == NULL;
        break;
    case KEY_ACTIVATION:
        status = moet_parse_activation(arg, "--activation", &o->activation);
        break;
    case KEY_CLAMP:
        status = moet_parse_decimal(arg, "--clamp", 0, 1e6, &o->clamp);
        break;
    case KEY_PROB:
        status = moet_parse_prob(arg, "--prob", &o->prob);
        break;
    case KEY_COMBINE:
        status = moet_parse_combine(arg, "--combine", &o->combine);
        break;
    case ARGP_KEY_ARG:
        if (is_value_of_bias(o, arg)) {
            argp_error(state, "--bias: '%s' must follow a '=' at once: --bias=%s", arg, arg);
        }
        return ARGP_ERR_UNKNOWN;
    case ARGP_KEY_END:
        check_together(o, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    moet_command_check(state, status);
    o->any_given = true;
    return 0;
}

const struct argp moet_problem_argp = {options, parse_option, NULL, NULL, NULL, NULL, NULL};

void moet_problem_options_default(moet_problem_options *o)
{
    *o = (moet_problem_options){.ops = {2, {MOET_OP_UP, MOET_OP_DOWN}},
                                .layouts = {1, {MOET_LAYOUT_NK}},
                                .numerics = MOET_NUMERICS_TRAIN,
                                .activation = MOET_ACTIVATION_SWIGLU,
                                .prob = MOET_PROB_ADVANCE};
}

void moet_problem_options_apply(const moet_problem_options *o, moet_problem *problem)
{
    problem->numerics = o->numerics;
    problem->bias = problem->op == MOET_OP_DOWN ? o->down_bias : o->bias;
    if (problem->op != MOET_OP_FFN) return;
    problem->down_bias = o->down_bias;
    problem->activation = o->activation;
    problem->clamp = o->clamp;
    problem->prob = o->prob;
    problem->combine = o->combine;
}

/* As moet_parse_decimal takes it, which knows no exponents: the fewest decimals that read back, else as many as it
 * takes. */
static void format_decimal(double value, char text[DECIMAL_SIZE])
{
    for (int decimals = 0; decimals <= MOST_DECIMALS; decimals++) {
        snprintf(text, DECIMAL_SIZE, "%.*f", decimals, value);
        if (strtod(text, NULL) == value) {
            return;
        }
    }
}

void moet_problem_options_format(const moet_problem *problem, char *text)
{
    static const char *const activations[] = {
#define MOET_X(name, text) text,
        MOET_ACTIVATION_TABLE(MOET_X)};
    static const char *const probs[] = {MOET_PROB_TABLE(MOET_X)
#undef MOET_X
    };
    const size_t size = MOET_PROBLEM_OPTIONS_SIZE;
    const bool is_path = problem->op == MOET_OP_FFN;
    const bool down_bias = is_path && problem->down_bias;
    size_t used = (size_t)snprintf(text, size, "--ops %s --layout %s", moet_op_text(problem->op),
                                   moet_layout_text(problem->layout));
    if (problem->numerics != MOET_NUMERICS_TRAIN) {
        used += (size_t)snprintf(text + used, size - used, " --numerics %s", moet_numerics_text(problem->numerics));
    }
    if (problem->bias || down_bias) {
        const char *which = !is_path || problem->bias == down_bias ? "yes" : problem->bias ? "up" : "down";
        used += (size_t)snprintf(text + used, size - used, " --bias=%s", which);
    }
    if (is_path) {
        used += (size_t)snprintf(text + used, size - used, " --activation %s --prob %s",
                                 activations[problem->activation], probs[problem->prob]);
    }
    if (is_path && problem->activation == MOET_ACTIVATION_SWIGLU_CLAMP) {
        char clamp[DECIMAL_SIZE];
        format_decimal(problem->clamp, clamp);
        used += (size_t)snprintf(text + used, size - used, " --clamp %s", clamp);
    }
    if (is_path && problem->combine == MOET_COMBINE_PADDLE) {
        snprintf(text + used, size - used, " --combine paddle");
    }
}
