/* What a caller gets wrong, and is told: NULL, a table that is made for a problem with other fields or by a newer
 * build, fork(). */
#include "table_text.h"
#include "test.h"

#include "../src/moet_ep.h"

#include <sys/wait.h>
#include <unistd.h>

enum { E = 4, H = 64, I = 32 };
static moet_device *host;

static int group_open(void **state)
{
    (void)state;
    unsetenv("MOET_TABLE");
    return moet_device_open("host", &host) == MOET_OK ? 0 : 1;
}

static int group_close(void **state)
{
    (void)state;
    moet_device_close(host);
    return 0;
}

static moet_problem path_problem(moet_prob prob)
{
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_FFN, E, H, I);
    problem.prob = prob;
    return problem;
}

/* A table of one problem, in a folder of its own. */
static void write_table(char folder[256], const moet_problem *problem)
{
    static const int32_t counts[E] = {16, 16, 16, 16};
    char config_text[MOET_CONFIG_SIZE], validator[64];
    moet_config config;
    TEST_OK(moet_default_config(problem, 64, false, &host->info, &config));
    const text_point point = {.counts = counts, .any = text_winner_of(&config, config_text, validator, 1000)};
    char *text = text_table(host, problem, &point, 1, NULL, 0);
    test_folder_make(folder);
    text_write(folder, text);
    free(text);
}

/* ---- a problem that the table has with other fields ---- */

static void plan_once(moet_handle *handle, const moet_problem *problem)
{
    moet_plan *plan;
    const moet_plan_options options = {.max_rows = 256, .max_tokens = 64, .choices = 4};
    TEST_OK(moet_plan_create(handle, problem, &options, &plan));
    moet_plan_destroy(plan);
}

static void test_a_missed_table_is_said(void **state)
{
    (void)state;
    char folder[256];
    moet_handle *handle;
    const moet_problem tuned = path_problem(MOET_PROB_ADVANCE);
    write_table(folder, &tuned);
    TEST_OK(moet_open(folder, "host", &handle));
    plan_once(handle, &tuned);
    assert_int_equal(moet_refusal_count(handle), 0);

    moet_problem asked = path_problem(MOET_PROB_COMBINE);
    for (int32_t i = 0; i < 2; i++) plan_once(handle, &asked);
    assert_int_equal(moet_refusal_count(handle), 1);
    assert_string_equal(moet_refusal(handle, 0), "op=ffn,experts=4,hidden=64,inter=32: the table has prob=advance; the "
                                                 "plan asks prob=combine");
    asked.layout = MOET_LAYOUT_KN;
    asked.bias = true;
    asked.activation = MOET_ACTIVATION_SWIGLU_CLAMP;
    asked.clamp = 7.5;
    plan_once(handle, &asked);
    assert_int_equal(moet_refusal_count(handle), 2);
    TEST_CONTAINS(moet_refusal(handle, 1),
                  "the table has layout=nk,activation=swiglu,bias=0,prob=advance,clamp=0; the plan asks "
                  "layout=kn,activation=swiglu_clamp,bias=1,prob=combine,clamp=7.5");

    /* Other sizes or another op are no slip. */
    moet_problem_init(&asked, MOET_OP_FFN, E, H, 2 * I);
    plan_once(handle, &asked);
    moet_problem_init(&asked, MOET_OP_UP, E, H, I);
    plan_once(handle, &asked);
    assert_int_equal(moet_refusal_count(handle), 2);
    moet_close(handle);
    test_folder_remove(folder);
}

/* ---- NULL ---- */

static void test_null_is_refused_by_name(void **state)
{
    (void)state;
    moet_handle *handle;
    moet_plan *plan, *none = NULL;
    const moet_problem problem = path_problem(MOET_PROB_COMBINE);
    const moet_plan_options options = {.max_tokens = 8, .choices = 2};
    const moet_launch_args launch_args = {0};
    const moet_ffn_args args = {0};
    const moet_permuted permuted = {0};
    const int32_t counts[E] = {0};
    moet_problem parsed;
    moet_routing routing;
    moet_choice choice;
    moet_record_summary summary;
    moet_ep_options ep_options;
    moet_ep *ep = NULL;
    char text[8];
    moet_ep_options_init(&ep_options, MOET_NUMERICS_TRAIN);
    TEST_OK(moet_open(NULL, "host", &handle));
    TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
#define REFUSED(words, call) TEST_FAILS(MOET_INVALID, words " is NULL", call)
    REFUSED("moet_open: handle", moet_open(NULL, "host", NULL));
    REFUSED("moet_problem_validate: problem", moet_problem_validate(NULL));
    REFUSED("moet_problem_parse: text", moet_problem_parse(NULL, &parsed));
    REFUSED("moet_problem_parse: problem", moet_problem_parse("op=up", NULL));
    REFUSED("moet_routing_summarize: counts", moet_routing_summarize(NULL, E, &routing));
    REFUSED("moet_routing_summarize: routing", moet_routing_summarize(counts, E, NULL));
    REFUSED("moet_plan_create: handle", moet_plan_create(NULL, &problem, &options, &none));
    REFUSED("moet_plan_create: problem", moet_plan_create(handle, NULL, &options, &none));
    REFUSED("moet_plan_create: options", moet_plan_create(handle, &problem, NULL, &none));
    REFUSED("moet_plan_create: plan", moet_plan_create(handle, &problem, &options, NULL));
    REFUSED("moet_launch: plan", moet_launch(NULL, &launch_args));
    REFUSED("moet_launch: args", moet_launch(plan, NULL));
    REFUSED("moet_ffn: plan", moet_ffn(NULL, &args));
    REFUSED("moet_ffn: args", moet_ffn(plan, NULL));
    REFUSED("moet_permute: plan", moet_permute(NULL, &args, &permuted));
    REFUSED("moet_permute: args", moet_permute(plan, NULL, &permuted));
    REFUSED("moet_permute: permuted", moet_permute(plan, &args, NULL));
    REFUSED("moet_activate: plan", moet_activate(NULL, counts, &permuted, text, NULL));
    REFUSED("moet_activate: permuted", moet_activate(plan, counts, NULL, text, NULL));
    REFUSED("moet_unpermute: plan", moet_unpermute(NULL, &args, counts, &permuted));
    REFUSED("moet_unpermute: args", moet_unpermute(plan, NULL, counts, &permuted));
    REFUSED("moet_unpermute: permuted", moet_unpermute(plan, &args, counts, NULL));
    REFUSED("moet_plan_query: plan", moet_plan_query(NULL, counts, &choice));
    REFUSED("moet_plan_query: choice", moet_plan_query(plan, counts, NULL));
    REFUSED("moet_plan_replay_command: plan", moet_plan_replay_command(NULL, counts, text, sizeof text));
    REFUSED("moet_plan_replay_command: text", moet_plan_replay_command(plan, counts, NULL, 0));
    REFUSED("moet_plan_summarize: plan", moet_plan_summarize(NULL, counts, &routing, NULL));
    REFUSED("moet_plan_expect: plan", moet_plan_expect(NULL, &routing));
    REFUSED("moet_record_start: handle", moet_record_start(NULL, 1));
    REFUSED("moet_record_save: handle", moet_record_save(NULL, "path"));
    REFUSED("moet_record_save: path", moet_record_save(handle, NULL));
    REFUSED("moet_record_summarize: handle", moet_record_summarize(NULL, &summary));
    REFUSED("moet_record_summarize: summary", moet_record_summarize(handle, NULL));
    REFUSED("moet_ep_launcher: options", moet_ep_launcher(NULL, NULL));
    REFUSED("moet_ep_create: handle", moet_ep_create(NULL, &problem, &ep_options, &ep));
    REFUSED("moet_ep_create: problem", moet_ep_create(handle, NULL, &ep_options, &ep));
    REFUSED("moet_ep_create: options", moet_ep_create(handle, &problem, NULL, &ep));
    REFUSED("moet_ep_create: ep", moet_ep_create(handle, &problem, &ep_options, NULL));
    REFUSED("moet_ep_run: ep", moet_ep_run(NULL, &(moet_ep_args){0}));
    REFUSED("moet_ep_wait: ep", moet_ep_wait(NULL, NULL));
    assert_true(!none && !ep);
    moet_plan_destroy(plan);
    moet_close(handle);
}

/* ---- a table of a newer libmoet ---- */

/* Puts text before the table's problems, and reads it: one entry serves in any case. */
static void read_with(const char *text, int32_t refused, const char *refusal)
{
    const moet_problem known = path_problem(MOET_PROB_COMBINE);
    char folder[256], path[300], *table;
    size_t size;
    moet_handle *handle;
    write_table(folder, &known);
    snprintf(path, sizeof path, "%s/table.json", folder);
    table = text_replace(test_file_read(path, &size), "\"problems\":[", text);
    text_rehash(table);
    text_write(folder, table);
    free(table);
    TEST_OK(moet_open(folder, "host", &handle));
    assert_int_equal(moet_entry_count(handle), 1);
    assert_int_equal(moet_refusal_count(handle), refused);
    assert_string_equal(moet_refusal(handle, 0), refusal);
    moet_close(handle);
    test_folder_remove(folder);
}

static void test_an_unknown_problem_is_refused_alone(void **state)
{
    (void)state;
#define FP8_KEY                                                                                                        \
    "op=ffn,experts=4,hidden=64,inter=32,x=bf16,w=fp8,out=bf16,scales=none,layout=nk,activation=swiglu,bias=0,"        \
    "prob=combine,numerics=train,down_bias=0,combine=exact,clamp=0"
    read_with("\"problems\":[{\"key\":\"" FP8_KEY "\",\"points\":[{\"new\":1}],\"defaults\":[]},", 1,
              FP8_KEY ": this libmoet is older than the table");
    read_with("\"ep\":[{\"problem\":\"" FP8_KEY "\",\"ranks\":2,\"hosts\":1,\"choices\":2,\"returns\":\"sums\","
              "\"points\":[{\"new\":1}]}],\"problems\":[",
              0, "");
}

/* ---- what a winner stands on ---- */

/* Opens a table whose winner is as given. */
static moet_status open_with(text_winner winner, moet_handle **handle)
{
    static const int32_t counts[E] = {16, 16, 16, 16};
    const moet_problem problem = path_problem(MOET_PROB_COMBINE);
    char config_text[MOET_CONFIG_SIZE], validator[64], folder[256];
    moet_config config;
    TEST_OK(moet_default_config(&problem, 64, false, &host->info, &config));
    text_winner whole = text_winner_of(&config, config_text, validator, 1000);
    if (winner.validator) whole.validator = winner.validator;
    whole.cubins[0].sha256 = winner.cubins[0].sha256;
    whole.cubins[0].arch = winner.cubins[0].arch;
    const text_point point = {.counts = counts, .any = whole};
    char *text = text_table(host, &problem, &point, 1, NULL, 0);
    test_folder_make(folder);
    text_write(folder, text);
    free(text);
    const moet_status status = moet_open(folder, "host", handle);
    test_folder_remove(folder);
    return status;
}

static void test_what_a_winner_stands_on(void **state)
{
    (void)state;
    static const char hash[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    moet_handle *handle;
    TEST_OK(open_with((text_winner){.validator = "cublasLt 130100"}, &handle));
    assert_int_equal(moet_refusal_count(handle), 1);
    TEST_CONTAINS(moet_refusal(handle, 0), "any: cublasLt 130100 expected, none found");
    moet_close(handle);
    TEST_FAILS(MOET_NOT_FOUND, "0123456789abcdef.cubin: No such file or directory; copy the table's folder whole",
               open_with((text_winner){.cubins = {{hash, "sm_0"}}}, &handle));
}

/* ---- fork ---- */

/* What a child does with the handle: the status of making a plan and launching it, or of launching the parent's. */
static moet_status use(moet_handle *handle, moet_plan *plan)
{
    static uint16_t x[16 * H] __attribute__((aligned(64))), w[E * 2 * I * H] __attribute__((aligned(64))),
        out[16 * 2 * I] __attribute__((aligned(64)));
    static const int32_t counts[E] = {4, 4, 4, 4};
    const moet_launch_args args = {.x = x, .w = w, .out = out, .counts = counts};
    const moet_plan_options options = {.max_rows = 16};
    moet_plan *made = NULL;
    moet_problem problem;
    moet_problem_init(&problem, MOET_OP_UP, E, H, I);
    if (!plan) MOET_TRY(moet_plan_create(handle, &problem, &options, &made));
    moet_status status = moet_launch(plan ? plan : made, &args);
    moet_plan_destroy(made);
    return status;
}

/* In a forked child, which is killed where it hangs. */
static void expect_in_child(moet_status expected, moet_handle *handle, moet_plan *plan)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(30);
        const moet_status status = use(handle, plan);
        const bool is_said = strcmp(moet_last_error(), "the host kernels were used before fork(): use them first in "
                                                       "the child, or spawn") == 0;
        _exit(status == expected && (status == MOET_OK || is_said) ? 0 : 1);
    }
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    if (!WIFEXITED(how) || WEXITSTATUS(how) != 0)
        test_fail("a forked child: %s %d", WIFSIGNALED(how) ? "signal" : "exit", how);
}

/* The first test, as it needs a process that has not used the kernels. */
static void test_kernels_in_forked_children(void **state)
{
    (void)state;
    moet_handle *handle;
    moet_plan *plan;
    moet_problem problem;
    const moet_plan_options options = {.max_rows = 16};
    TEST_OK(moet_open(NULL, "host", &handle));
    expect_in_child(MOET_OK, handle, NULL); /* the parent has only opened */
    moet_problem_init(&problem, MOET_OP_UP, E, H, I);
    TEST_OK(moet_plan_create(handle, &problem, &options, &plan));
    TEST_OK(use(handle, plan));
    expect_in_child(MOET_UNSUPPORTED, handle, plan);
    expect_in_child(MOET_UNSUPPORTED, handle, NULL);
    TEST_OK(use(handle, plan));
    moet_plan_destroy(plan);
    moet_close(handle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels_in_forked_children), cmocka_unit_test(test_null_is_refused_by_name),
        cmocka_unit_test(test_a_missed_table_is_said),     cmocka_unit_test(test_an_unknown_problem_is_refused_alone),
        cmocka_unit_test(test_what_a_winner_stands_on),
    };
    return cmocka_run_group_tests(tests, group_open, group_close);
}
