/* effort.c: see effort.h. */
#include "effort.h"

#include <string.h>

#include "../src/status.h"

static const moet_effort_rule rules[MOET_EFFORT_COUNT] = {
    [MOET_EFFORT_QUICK] = {.name = "quick", .estimated = 4},
    [MOET_EFFORT_NORMAL] = {.name = "normal", .estimated = 12, .centers = {2, 1}, .path_centers = {1}, .fills = true},
    [MOET_EFFORT_EXHAUSTIVE] = {.name = "exhaustive", .centers = {4, 2}, .path_centers = {2, 1}, .fills = true},
};

const moet_effort_rule *moet_effort_rule_of(moet_effort effort) { return &rules[effort]; }

moet_status moet_effort_parse(const char *text, const char *option, moet_effort *effort)
{
    for (int32_t i = 0; i < MOET_EFFORT_COUNT; i++) {
        if (strcmp(text, rules[i].name) == 0) {
            *effort = (moet_effort)i;
            return MOET_OK;
        }
    }
    return moet_fail(MOET_INVALID, "%s: '%.40s' is not quick, normal or exhaustive", option, text);
}
