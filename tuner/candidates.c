/* candidates.c: see candidates.h. */
#include "candidates.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/ffn_path.h"

/* By its own name, or a path family by that of its GEMMs. */
static bool is_chosen(const moet_family *family, const moet_text_list *families)
{
    for (int32_t i = 0; i < families->count; i++) {
        if (strcmp(families->texts[i], family->name) == 0 ||
            (family->gemm != NULL && strcmp(families->texts[i], family->gemm->name) == 0)) {
            return true;
        }
    }
    return families->count == 0;
}

moet_status moet_candidates_check(const moet_device_info *device, const moet_text_list *families)
{
    bool any = false;
    for (int32_t i = 0; i < families->count; i++) {
        const moet_family *family = moet_family_find(families->texts[i]);
        if (family == NULL) {
            char names[256] = "";
            for (int32_t j = 0, used = 0; moet_families[j] != NULL && used < 200; j++) {
                used += snprintf(names + used, sizeof names - (size_t)used, " %.32s", moet_families[j]->name);
            }
            return moet_fail(MOET_INVALID, "no kernel family '%.40s'; this build has%s", families->texts[i], names);
        }
        any = any || strcmp(family->backend, device->backend) == 0;
    }
    if (families->count > 0 && !any) {
        return moet_fail(MOET_UNSUPPORTED, "none of the families asked for runs on %s (%s)", device->name,
                         device->backend);
    }
    return MOET_OK;
}

static moet_status add(moet_candidates *list, const moet_candidate *candidate)
{
    if (list->count == list->capacity) {
        int32_t capacity = list->capacity == 0 ? 128 : 2 * list->capacity;
        moet_candidate *items = realloc(list->items, (size_t)capacity * sizeof *items);
        if (items == NULL) {
            return moet_fail(MOET_NO_MEMORY, "no memory for %d candidates", capacity);
        }
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = *candidate;
    return MOET_OK;
}

/* Adds a config by the rule at the top of candidates.h. `missing` is why the family cannot run at all, or "". */
static moet_status add_config(moet_candidates *list, const moet_problem *problem, const moet_device_info *device,
                              const moet_config *config, bool family_default, bool is_chosen_family,
                              const char *validator, const char *missing)
{
    moet_candidate candidate = {.config = *config,
                                .family_default = family_default,
                                .is_chosen = is_chosen_family,
                                .applicable = true,
                                .subject = -1};
    moet_config_format(config, candidate.text);
    snprintf(candidate.validator, sizeof candidate.validator, "%s", validator);
    if (missing[0] != '\0') {
        candidate.applicable = moet_refuse(candidate.reason, "%s", missing);
        return add(list, &candidate);
    }
    candidate.applicable = config->family->applicable(problem, config, device, candidate.reason);
    moet_traits traits = config->family->traits(problem, config);
    candidate.device_counts = traits.device_counts;
    MOET_TRY(add(list, &candidate));
    if (family_default && candidate.applicable && traits.device_counts && traits.host_counts) {
        candidate.device_counts = false;
        MOET_TRY(add(list, &candidate));
    }
    return MOET_OK;
}

typedef struct listing {
    const moet_problem *problem;
    int64_t rows;
    const moet_device_info *device;
    const moet_text_list *families;
    const moet_known_gemms *known; /* NULL: nothing */
    moet_candidates *list;
} listing;

static bool is_searched_around(const moet_param *param)
{
    return param->search == MOET_SEARCH_AROUND || param->search == MOET_SEARCH_AROUND_DEFAULT;
}

/* Whether every parameter that a sweep does not search at first has its first value, or the default's. */
static bool is_searched_first(const moet_config *config, const moet_config *default_config)
{
    for (int32_t i = 0; i < config->family->param_count; i++) {
        const moet_search search = config->family->params[i].search;
        const int16_t first = search == MOET_SEARCH_AROUND_DEFAULT ? default_config->value[i] : 0;
        if (config->value[i] != first && search != MOET_SEARCH_FIRST) {
            return false;
        }
    }
    return true;
}

static bool has_config(const moet_candidates *list, const moet_config *config)
{
    for (int32_t i = 0; i < list->count; i++) {
        if (moet_config_equal(&list->items[i].config, config)) {
            return true;
        }
    }
    return false;
}

/* ---- paths: two GEMMs, whose times add up ---- */

enum { UP, DOWN };

/* One half's values from another config of the family, with what is fused into it. */
static void copy_half(const moet_config *from, int32_t which, moet_config *to)
{
    const int32_t count = to->family->gemm->param_count, first = MOET_PATH_PARAMS + which * count;
    memcpy(to->value + first, from->value + first, (size_t)count * sizeof to->value[0]);
    if (which == UP) {
        to->value[MOET_PATH_ACT] = from->value[MOET_PATH_ACT];
        to->value[MOET_PATH_GATHER] = from->value[MOET_PATH_GATHER];
    } else {
        to->value[MOET_PATH_COMBINE] = from->value[MOET_PATH_COMBINE];
    }
}

/* With a launch for each GEMM: halves are then chosen one by one. */
static moet_config unchained(const moet_config *config)
{
    moet_config path = *config;
    path.value[MOET_PATH_CHAIN] = MOET_PATH_CHAIN_OFF;
    return path;
}

/* With one launch for both GEMMs, which takes this half's values for both. */
static moet_config chained(const moet_config *config, int32_t which)
{
    const int32_t count = config->family->gemm->param_count, up = MOET_PATH_PARAMS, down = up + count;
    moet_config path = *config;
    memcpy(path.value + (which == UP ? down : up), config->value + (which == UP ? up : down),
           (size_t)count * sizeof path.value[0]);
    path.value[MOET_PATH_CHAIN] = MOET_PATH_CHAIN_ON;
    return path;
}

void moet_known_gemms_add(const moet_config *config, int32_t *count, moet_config configs[64])
{
    int32_t of_family = 0;
    for (int32_t i = 0; i < *count; i++) {
        if (moet_config_equal(&configs[i], config)) {
            return;
        }
        of_family += configs[i].family == config->family;
    }
    if (of_family < MOET_KNOWN_GEMMS && *count < 64) {
        configs[(*count)++] = *config;
    }
}

static bool is_known(const moet_config *configs, int32_t count, const moet_family *gemm)
{
    for (int32_t i = 0; i < count; i++) {
        if (configs[i].family == gemm) {
            return true;
        }
    }
    return false;
}

static moet_status add_once(const listing *l, const moet_config *config, const char *validator)
{
    return has_config(l->list, config) ? MOET_OK
                                       : add_config(l->list, l->problem, l->device, config, false, true, validator, "");
}

static void put_half(const moet_config *gemm, int32_t which, moet_config *path)
{
    const int32_t count = gemm->family->param_count;
    memcpy(path->value + MOET_PATH_PARAMS + which * count, gemm->value, (size_t)count * sizeof gemm->value[0]);
}

/* A GEMM config in place of one half of the default: with every way of fusing (thorough), or as the default does, else
 * by passes. The up half is activated either way. */
static moet_status add_half(const listing *l, const moet_config *default_config, const moet_config *gemm, int32_t which,
                            bool thorough, const char *validator)
{
    const int32_t own = which == UP ? MOET_PATH_GATHER : MOET_PATH_COMBINE, acts = which == UP ? MOET_PATH_ACTS : 1;
    const int16_t pass = which == UP ? MOET_PATH_GATHER_PASS : MOET_PATH_COMBINE_PASS;
    const int16_t fused = which == UP ? MOET_PATH_GATHER_FUSED : MOET_PATH_COMBINE_FUSED;
    const bool is_fusible = which == UP ? gemm->family->fuses_gather : gemm->family->fuses_scatter;
    for (int32_t variant = 0; variant < 2 * acts; variant++) {
        char why[MOET_REASON_SIZE];
        moet_config path = *default_config;
        const bool is_pass = variant % 2 == 0;
        put_half(gemm, which, &path);
        path.value[own] = is_pass ? pass : fused;
        if (which == UP) {
            path.value[MOET_PATH_ACT] = (int16_t)(variant / 2);
        }
        if (!is_pass && !is_fusible) {
            continue;
        }
        if (!is_pass && !path.family->applicable(l->problem, &path, l->device, why)) {
            /* What does not go with it is mostly a parameter that is not searched at first: its first. */
            for (int32_t i = 0; i < gemm->family->param_count; i++) {
                if (gemm->family->params[i].search != MOET_SEARCH_FIRST) {
                    path.value[MOET_PATH_PARAMS + which * gemm->family->param_count + i] = 0;
                }
            }
        }
        if (!thorough && path.value[own] != default_config->value[own]) {
            moet_config like_default = path;
            like_default.value[own] = default_config->value[own];
            if (like_default.family->applicable(l->problem, &like_default, l->device, why)) {
                continue;
            }
        }
        MOET_TRY(add_once(l, &path, validator));
    }
    return MOET_OK;
}

int32_t moet_candidates_most_known(const moet_family *family)
{
    const moet_family *gemm = family->gemm;
    const int32_t acts = gemm->fuses_activation ? MOET_PATH_ACTS : 1;
    return MOET_KNOWN_GEMMS * (acts * (1 + gemm->fuses_gather) + 1 + gemm->fuses_scatter);
}

/* Both GEMMs in one launch, the activation with them, else fused as the default is, or with the other way of gathering.
 * What does not apply is not worth a line: it does not as a GEMM. */
static moet_status add_chained(const listing *l, const moet_config *base, const moet_config *gemm,
                               const char *validator)
{
    char why[MOET_REASON_SIZE];
    moet_config path = *base;
    put_half(gemm, UP, &path);
    path = chained(&path, UP);
    path.value[MOET_PATH_ACT] = MOET_PATH_ACT_FUSED;
    if (!path.family->applicable(l->problem, &path, l->device, why)) {
        const bool gathers = path.value[MOET_PATH_GATHER] == MOET_PATH_GATHER_FUSED;
        path.value[MOET_PATH_GATHER] = gathers ? MOET_PATH_GATHER_PASS : MOET_PATH_GATHER_FUSED;
    }
    return path.family->applicable(l->problem, &path, l->device, why) ? add_once(l, &path, validator) : MOET_OK;
}

/* A path's space is the product of its GEMMs': of each what is known to be fast, else what is searched first, beside
 * the other's default. Chained, both are one, which need not be fast as either: all of these. */
static moet_status add_path(const listing *l, const moet_config *default_config, const char *validator)
{
    const moet_known_gemms *known = l->known;
    const moet_family *gemm_family = default_config->family->gemm;
    const moet_config base = unchained(default_config);
    const bool is_all_known = known != NULL && is_known(known->ups, known->up_count, gemm_family) &&
                              is_known(known->downs, known->down_count, gemm_family);
    for (int32_t i = 0; is_all_known && i < known->up_count; i++) {
        if (known->ups[i].family == gemm_family) {
            MOET_TRY(add_half(l, &base, &known->ups[i], UP, true, validator));
        }
    }
    for (int32_t i = 0; is_all_known && i < known->down_count; i++) {
        if (known->downs[i].family == gemm_family) {
            MOET_TRY(add_half(l, &base, &known->downs[i], DOWN, true, validator));
        }
    }
    moet_config gemm, gemm_default = {.family = gemm_family};
    const moet_problem up = moet_problem_gemm(l->problem, MOET_OP_UP);
    gemm_family->default_config(&up, l->rows, l->device, &gemm_default);
    moet_config_first(gemm_family, &gemm);
    do {
        if (!is_searched_first(&gemm, &gemm_default)) {
            continue;
        }
        if (!is_all_known) {
            MOET_TRY(add_half(l, &base, &gemm, UP, false, validator));
            MOET_TRY(add_half(l, &base, &gemm, DOWN, false, validator));
        }
        if (gemm_family->fuses_next) {
            MOET_TRY(add_chained(l, &base, &gemm, validator));
        }
    } while (moet_config_next(&gemm));
    return MOET_OK;
}

/* The fastest candidates that are the default but for this half and what is fused into it: indices into
 * found[MOET_CANDIDATES_HALVES], fastest first. The count. */
static int32_t find_halves(const moet_candidates *list, const moet_config *default_config, int32_t which,
                           int32_t *found)
{
    int32_t count = 0;
    for (int32_t i = 0; i < list->count; i++) {
        const moet_candidate *c = &list->items[i];
        if (c->config.family != default_config->family || c->status != MOET_TRIAL_OK || c->median_ns <= 0) {
            continue;
        }
        moet_config rest = c->config;
        copy_half(default_config, which, &rest);
        bool repeated = false; /* the default is there for each kind of counts */
        for (int32_t j = 0; j < count; j++) {
            repeated = repeated || moet_config_equal(&list->items[found[j]].config, &c->config);
        }
        if (repeated || !moet_config_equal(&rest, default_config)) {
            continue;
        }
        int32_t place = count;
        while (place > 0 && list->items[found[place - 1]].median_ns > c->median_ns) place--;
        if (place == MOET_CANDIDATES_HALVES) {
            continue;
        }
        count += count < MOET_CANDIDATES_HALVES;
        memmove(&found[place + 1], &found[place], (size_t)(count - place - 1) * sizeof *found);
        found[place] = i;
    }
    return count;
}

int32_t moet_candidates_most_crossed(const moet_family *family)
{
    return MOET_CANDIDATES_HALVES * (MOET_CANDIDATES_HALVES + (family->gemm->fuses_next ? 2 : 0));
}

moet_status moet_candidates_add_crossed(moet_candidates *list, const moet_problem *problem,
                                        const moet_device_info *device)
{
    const moet_family *crossed = NULL;
    for (int32_t i = 0; i < list->count && list->items[i].family_default; i++) {
        const moet_candidate one = list->items[i];
        int32_t ups[MOET_CANDIDATES_HALVES], downs[MOET_CANDIDATES_HALVES];
        if (!one.is_chosen || one.config.family->gemm == NULL || one.config.family == crossed) {
            continue;
        }
        crossed = one.config.family;
        const moet_config base = unchained(&one.config);
        const int32_t up_count = find_halves(list, &base, UP, ups);
        const int32_t down_count = find_halves(list, &base, DOWN, downs);
        for (int32_t j = 0; j < up_count * down_count; j++) {
            moet_config config = list->items[ups[j / down_count]].config;
            copy_half(&list->items[downs[j % down_count]].config, DOWN, &config);
            if (!has_config(list, &config)) {
                MOET_TRY(add_config(list, problem, device, &config, false, true, one.validator, ""));
            }
        }
        /* One launch for both, with a GEMM that is fast as either, beside what is fused into the best of the others. */
        const int32_t chained_count = up_count > 0 && down_count > 0 && crossed->gemm->fuses_next ? up_count + down_count : 0;
        for (int32_t j = 0; j < chained_count; j++) {
            const int32_t which = j < up_count ? UP : DOWN;
            moet_config config = list->items[which == UP ? ups[j] : ups[0]].config;
            copy_half(&list->items[which == UP ? downs[0] : downs[j - up_count]].config, DOWN, &config);
            config = chained(&config, which);
            if (!has_config(list, &config)) {
                MOET_TRY(add_config(list, problem, device, &config, false, true, one.validator, ""));
            }
        }
    }
    return MOET_OK;
}

/* ---- the list ---- */

/* A family's default (defaults true) or what else of its space is searched first. */
static moet_status add_family(const listing *l, const moet_family *family, bool defaults)
{
    char validator[MOET_VALIDATOR_SIZE] = "", missing[MOET_REASON_SIZE] = "";
    const bool chosen = is_chosen(family, l->families);
    moet_status status = moet_family_validator(family, validator);
    if (status == MOET_NO_MEMORY) {
        return status;
    }
    if (status != MOET_OK) {
        snprintf(missing, sizeof missing, "%.255s", moet_last_error());
        validator[0] = '\0';
    }
    moet_config default_config = {.family = family};
    family->default_config(l->problem, l->rows, l->device, &default_config);
    if (defaults) {
        return add_config(l->list, l->problem, l->device, &default_config, true, chosen, validator, missing);
    }
    if (missing[0] != '\0' || !chosen) {
        return MOET_OK;
    }
    if (family->gemm != NULL) {
        return add_path(l, &default_config, validator);
    }
    moet_config config;
    moet_config_first(family, &config);
    do {
        if (is_searched_first(&config, &default_config) && !moet_config_equal(&config, &default_config)) {
            MOET_TRY(add_config(l->list, l->problem, l->device, &config, false, true, validator, missing));
        }
    } while (moet_config_next(&config));
    return MOET_OK;
}

moet_status moet_candidates_list(const moet_problem *problem, int64_t rows, const moet_device_info *device,
                                 const moet_text_list *families, const moet_known_gemms *known, moet_candidates *list)
{
    MOET_TRY(moet_candidates_check(device, families));
    moet_candidates made = {0};
    listing l = {problem, rows, device, families, known, &made};
    moet_status status = MOET_OK;
    for (int32_t pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; moet_families[i] != NULL && status == MOET_OK; i++) {
            if (strcmp(moet_families[i]->backend, device->backend) == 0 &&
                moet_family_serves(moet_families[i], problem->op)) {
                status = add_family(&l, moet_families[i], pass == 0);
            }
        }
    }
    if (status != MOET_OK) {
        moet_candidates_release(&made);
        return status;
    }
    *list = made;
    return MOET_OK;
}

moet_status moet_candidates_add_around(moet_candidates *list, const moet_problem *problem,
                                       const moet_device_info *device, int32_t center)
{
    const moet_config config = list->items[center].config;
    char validator[MOET_VALIDATOR_SIZE];
    snprintf(validator, sizeof validator, "%s", list->items[center].validator);
    for (int32_t i = 0; i < config.family->param_count; i++) {
        const moet_param *param = &config.family->params[i];
        moet_config other = config;
        for (other.value[i] = 0; is_searched_around(param) && param->values[other.value[i]]; other.value[i]++) {
            /* Chained, the down half is the up half: a change of it is none. */
            const moet_config next = moet_ffn_path_is_chained(&other) ? chained(&other, UP) : other;
            if (!has_config(list, &next)) {
                MOET_TRY(add_config(list, problem, device, &next, false, true, validator, ""));
            }
        }
    }
    return MOET_OK;
}

typedef struct listed_into {
    moet_candidates *list;
    const moet_problem *problem;
    const moet_device_info *device;
    const char *validator;
} listed_into;

static moet_status add_listed(void *context, const moet_config *config)
{
    const listed_into *l = context;
    return has_config(l->list, config)
               ? MOET_OK
               : add_config(l->list, l->problem, l->device, config, false, true, l->validator, "");
}

static bool is_lister(const moet_candidate *c)
{
    return c->family_default && c->is_chosen && c->applicable && c->config.family->list != NULL;
}

moet_status moet_candidates_add_listed(moet_candidates *list, const moet_problem *problem,
                                       const moet_device_info *device, moet_candidates_lister lister, void *context)
{
    const int32_t before = list->count;
    for (int32_t i = 0; i < before && list->items[i].family_default; i++) {
        const moet_candidate one = list->items[i]; /* the list grows */
        listed_into l = {list, problem, device, one.validator};
        const moet_status status = is_lister(&one) ? lister(context, &one.config, add_listed, &l) : MOET_OK;
        if (status != MOET_OK && status != MOET_UNSUPPORTED) {
            list->count = before;
            return status;
        }
    }
    return MOET_OK;
}

int32_t moet_candidates_listers(const moet_candidates *list)
{
    int32_t count = 0;
    for (int32_t i = 0; i < list->count; i++) count += is_lister(&list->items[i]);
    return count;
}

moet_status moet_candidates_add_seed(moet_candidates *list, const moet_problem *problem, const moet_device_info *device,
                                     const moet_config *config)
{
    const moet_candidate *of_family = NULL; /* its default */
    for (int32_t i = 0; i < list->count; i++) {
        moet_candidate *c = &list->items[i];
        if (c->family_default && c->config.family == config->family) {
            of_family = c;
        }
        if (moet_config_equal(&c->config, config)) {
            c->is_seed = true;
            return MOET_OK;
        }
    }
    if (of_family == NULL || !of_family->is_chosen) {
        return MOET_OK;
    }
    char validator[MOET_VALIDATOR_SIZE];
    snprintf(validator, sizeof validator, "%s", of_family->validator);
    MOET_TRY(add_config(list, problem, device, config, false, true, validator, ""));
    list->items[list->count - 1].is_seed = true;
    return MOET_OK;
}

int32_t moet_candidates_around(const moet_config *center)
{
    int32_t count = 0;
    for (int32_t i = 0; i < center->family->param_count; i++) {
        const moet_param *param = &center->family->params[i];
        for (int32_t value = 1; is_searched_around(param) && param->values[value]; value++) {
            count++;
        }
    }
    return count;
}

void moet_candidates_release(moet_candidates *list)
{
    free(list->items);
    *list = (moet_candidates){0};
}

void moet_candidates_hash(const moet_candidates *list, int32_t rule, int32_t final_rounds, int32_t listed,
                          char text[MOET_SHA256_TEXT_SIZE])
{
    /* A chain of hashes, so that no text of all candidates is needed. */
    char link[MOET_SHA256_TEXT_SIZE + MOET_CONFIG_SIZE + 128];
    snprintf(link, sizeof link, "race=%d rounds=%d", rule, final_rounds);
    moet_sha256_text(link, strlen(link), text);
    for (int32_t i = 0; i < list->count; i++) {
        const moet_candidate *c = &list->items[i];
        for (int32_t p = 0; c->family_default && c->is_chosen && p < c->config.family->param_count; p++) {
            const moet_param *param = &c->config.family->params[p];
            for (int32_t v = 0; is_searched_around(param) && param->values[v] != NULL; v++) {
                snprintf(link, sizeof link, "%s around %s %s=%s", text, c->config.family->name, param->name,
                         param->values[v]);
                moet_sha256_text(link, strlen(link), text);
            }
        }
    }
    for (int32_t i = 0; i < list->count && listed > 0; i++) {
        if (!is_lister(&list->items[i])) {
            continue;
        }
        snprintf(link, sizeof link, "%s listed %s %d", text, list->items[i].config.family->name, listed);
        moet_sha256_text(link, strlen(link), text);
    }
    for (int32_t i = 0; i < list->count; i++) {
        const moet_candidate *c = &list->items[i];
        if (c->config.family->gemm != NULL && !c->family_default) {
            continue;
        }
        const bool chains = c->config.family->gemm != NULL && c->config.family->gemm->fuses_next;
        snprintf(link, sizeof link, "%s %s %d %d %s%s", text, c->text, c->device_counts, c->config.family->version,
                 c->validator, chains ? " chained" : "");
        moet_sha256_text(link, strlen(link), text);
    }
}
