#include "configs.h"

enum { MAX_FACTORS = MOET_MAX_PARAMS + 3 };

/* The factors of a choice and the table of pairs: `open[first[i][j] + value i * values[j] + value j]` for i < j. */
typedef struct cover {
    int32_t factor_count, values[MAX_FACTORS];
    int32_t first[MAX_FACTORS][MAX_FACTORS];
    bool *open; /* occurs in a legal choice and not yet in the set */
    int64_t open_count;
} cover;

static bool same_shape(const moet_problem *a, const moet_problem *b)
{
    return a->op == b->op && a->experts == b->experts && a->hidden == b->hidden && a->inter == b->inter;
}

static void factors_of(const test_choice *choice, const moet_problem *problems, int32_t *values)
{
    const moet_problem *problem = &problems[choice->problem];
    int32_t count = choice->config.family->param_count, shape = 0;
    for (int32_t p = 0; p < count; p++) values[p] = choice->config.value[p];
    while (!same_shape(&problems[shape], problem)) shape++;
    values[count] = (int32_t)problem->layout;
    values[count + 1] = problem->bias;
    values[count + 2] = shape;
}

static void cover_create(const moet_family *family, int32_t problem_count, cover *c)
{
    int32_t pair_count = 0;
    *c = (cover){.factor_count = family->param_count + 3};
    for (int32_t p = 0; p < family->param_count; p++)
        while (family->params[p].values[c->values[p]]) c->values[p]++;
    c->values[family->param_count] = MOET_LAYOUT_COUNT;
    c->values[family->param_count + 1] = 2;
    c->values[family->param_count + 2] = problem_count;
    for (int32_t i = 0; i < c->factor_count; i++) {
        for (int32_t j = i + 1; j < c->factor_count; j++) {
            c->first[i][j] = pair_count;
            pair_count += c->values[i] * c->values[j];
        }
    }
    c->open = test_allocate((size_t)pair_count * sizeof *c->open);
}

/* Number of pairs of a choice that are in the given state; `turn` puts them into the other one. */
static int32_t count_pairs(cover *c, const int32_t *values, bool open, bool turn)
{
    int32_t count = 0;
    for (int32_t i = 0; i < c->factor_count; i++) {
        for (int32_t j = i + 1; j < c->factor_count; j++) {
            bool *pair = &c->open[c->first[i][j] + values[i] * c->values[j] + values[j]];
            if (*pair != open) continue;
            count++;
            if (turn) *pair = !open;
        }
    }
    return count;
}

/* Keeps of the choices a pairwise set: always the first one that adds most pairs. */
static void keep_pairs(const moet_family *family, const moet_problem *problems, int32_t problem_count,
                       test_configs *configs)
{
    cover c;
    cover_create(family, problem_count, &c);
    int32_t(*values)[MAX_FACTORS] = test_allocate((size_t)configs->count * sizeof *values);
    int32_t *most = test_allocate((size_t)configs->count * sizeof *most); /* pairs that a choice may still add */
    bool *kept = test_allocate((size_t)configs->count * sizeof *kept);
    for (int32_t i = 0; i < configs->count; i++) {
        factors_of(&configs->choices[i], problems, values[i]);
        c.open_count += count_pairs(&c, values[i], false, true);
        most[i] = INT32_MAX;
    }
    while (c.open_count > 0) {
        int32_t best = -1, best_count = 0;
        for (int32_t i = 0; i < configs->count; i++) {
            if (most[i] <= best_count) continue; /* what a choice adds only shrinks */
            most[i] = count_pairs(&c, values[i], true, false);
            if (most[i] <= best_count) continue;
            best = i;
            best_count = most[i];
        }
        kept[best] = true;
        c.open_count -= count_pairs(&c, values[best], true, true);
    }
    int32_t count = 0;
    for (int32_t i = 0; i < configs->count; i++)
        if (kept[i]) configs->choices[count++] = configs->choices[i];
    configs->count = count;
    free(kept);
    free(most);
    free(values);
    free(c.open);
}

static void add(test_configs *configs, const moet_config *config, int32_t problem)
{
    const int32_t count = configs->count;
    if ((count & (count - 1)) == 0) { /* full: the room is the next power of two */
        configs->choices = realloc(configs->choices, (count ? 2 * (size_t)count : 1) * sizeof *configs->choices);
        if (!configs->choices) test_fail("out of memory: %d configs", count);
    }
    configs->choices[configs->count++] = (test_choice){.config = *config, .problem = problem};
}

void test_configs_create(const moet_family *family, const moet_problem *problems, int32_t problem_count,
                         const moet_device_info *device, bool pairs, test_configs *configs)
{
    *configs = (test_configs){0};
    for (int32_t i = 0; i < problem_count; i++) {
        moet_config config;
        moet_config_first(family, &config);
        do {
            char why[MOET_REASON_SIZE] = "";
            if (family->applicable(&problems[i], &config, device, why)) {
                add(configs, &config, i);
                continue;
            }
            if (!why[0] || strpbrk(why, "\n\r")) test_fail("%s: a refusal without a reason of one line", family->name);
            configs->refused++;
        } while (moet_config_next(&config));
    }
    configs->legal = configs->count;
    if (pairs) keep_pairs(family, problems, problem_count, configs);
}

void test_configs_destroy(test_configs *configs)
{
    free(configs->choices);
    *configs = (test_configs){0};
}

bool test_same_source(const moet_source *a, const moet_source *b)
{
    if (a->text != b->text || strcmp(a->arch, b->arch) != 0 || a->option_count != b->option_count) return false;
    for (int32_t i = 0; i < a->option_count; i++)
        if (strcmp(a->options[i], b->options[i]) != 0) return false;
    return true;
}

void test_fused_problems(int32_t hidden, int32_t inter, moet_problem problems[TEST_FUSED_PROBLEMS])
{
    for (int32_t i = 0; i < TEST_FUSED_PROBLEMS; i++) {
        moet_problem_init(&problems[i], MOET_OP_UP, TEST_FUSED_EXPERTS, hidden, inter);
        problems[i].layout = (moet_layout)(i & 1);
        problems[i].bias = i & 2;
        problems[i].activation = MOET_ACTIVATION_SWIGLU;
    }
}

bool test_fused_choice(const test_choice *choice, const moet_problem *problems, const moet_device_info *device,
                       int64_t nth, moet_problem *fused, moet_config *config)
{
    const moet_family *family = choice->config.family;
    char why[MOET_REASON_SIZE];
    *fused = problems[choice->problem];
    fused->activation = (moet_activation)(MOET_ACTIVATION_SWIGLU + nth % 3);
    fused->prob = nth % TEST_FUSED_KINDS < 3 ? MOET_PROB_ADVANCE : MOET_PROB_NONE;
    fused->clamp = fused->activation == MOET_ACTIVATION_SWIGLU_CLAMP ? 0.75 : 0;
    *config = choice->config;
    config->gathers = family->fuses_gather && nth / TEST_FUSED_KINDS % 2;
    if (config->gathers && !family->applicable(fused, config, device, why)) config->gathers = false;
    return family->applicable(fused, config, device, why);
}
