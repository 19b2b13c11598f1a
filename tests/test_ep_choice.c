/* How a table has the expert-parallel layer run: its text, the table's member "ep", and that layers take it. */
#include "table_text.h"
#include "test.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../src/ep.h"
#include "../src/table.h"

static moet_device *host;
static moet_problem layer; /* of all ranks */
static char folder[256];

#define TWO_CHUNKS "transport=exchange,chunks=2,comm_sms=0"
#define ONE "transport=exchange,chunks=1,comm_sms=0"

static void problem_init(void) { moet_problem_init(&layer, MOET_OP_FFN, 12, 64, 32); }

/* ---- the text ---- */

static void test_text(void **state)
{
    (void)state;
    static const char *const good[] = {"transport=auto,chunks=0,comm_sms=0", TWO_CHUNKS,
                                       "transport=lsa,chunks=4,comm_sms=4096", "transport=pigeon,chunks=1,comm_sms=16"};
    static const char *const bad[] = {"",
                                      "transport",
                                      "transport=",
                                      "=lsa",
                                      ",",
                                      "transport=lsa,",
                                      "transport=lsa,transport=lsa",
                                      "chunks=5",
                                      "chunks=-1",
                                      "chunks=1x",
                                      "comm_sms=4097",
                                      "comm_sms=99999999999999999999",
                                      "transport=lsa,wings=2",
                                      "transport =lsa",
                                      "transport=0123456789012345678901234567890123456789012345678901234567890123"};
    char text[MOET_EP_CHOICE_SIZE];
    for (int32_t i = 0; i < MOET_COUNT_OF(good); i++) {
        moet_ep_options options = {.ranks = 7, .chunks = 3, .comm_sms = 9, .transport = "bound"};
        TEST_OK(moet_ep_choice_parse(good[i], &options));
        moet_ep_choice_format(&options, text);
        assert_string_equal(text, good[i]);
        assert_int_equal(options.ranks, 7);
        assert_int_equal(moet_ep_choice_is_open(&options), i == 0);
    }
    for (int32_t i = 0; i < MOET_COUNT_OF(bad); i++) {
        moet_ep_options options = {.chunks = 3, .transport = "bound"}, before = options;
        TEST_FAILS(MOET_INVALID, "how the layer is run", moet_ep_choice_parse(bad[i], &options));
        assert_memory_equal(&options, &before, sizeof options);
    }
    moet_ep_options options = {.chunks = 3, .comm_sms = 2}; /* what the text lacks becomes open */
    TEST_OK(moet_ep_choice_parse("transport=lsa", &options));
    assert_true(options.chunks == 0 && options.comm_sms == 0);
    moet_ep_options_init(&options, MOET_NUMERICS_TRAIN);
    assert_true(moet_ep_choice_is_open(&options));
}

/* ---- the table ---- */

/* A table of the host with this member "ep" (NULL: none); malloc'd. */
static char *table_of(const char *ep)
{
    const moet_family *family = moet_family_find("host_tile");
    const int32_t counts[4] = {1, 2, 3, 4};
    char config_text[MOET_CONFIG_SIZE], validator[64];
    moet_problem up;
    moet_config config;
    moet_problem_init(&up, MOET_OP_UP, 4, 64, 32);
    moet_config_first(family, &config);
    const text_point point = {.counts = counts, .any = text_winner_of(&config, config_text, validator, 1000)};
    char *text = text_table(host, &up, &point, 1, NULL, 0);
    if (!ep) return text;
    char *with = malloc(strlen(ep) + 64);
    assert_non_null(with);
    sprintf(with, "\"ep\":%s,\n\"problems\":[{", ep);
    text = text_replace(text, "\"problems\":[{", with);
    free(with);
    text_rehash(text);
    return text;
}

/* A list of one layer: of so many ranks, with points; malloc'd. */
static char *layer_of(int32_t ranks, const char *points)
{
    char key[MOET_KEY_SIZE], *text = NULL;
    moet_problem local = layer;
    local.experts /= ranks;
    moet_problem_format(&local, key);
    assert_true(
        asprintf(&text,
                 "[{\"problem\":\"%s\",\"ranks\":%d,\"hosts\":1,\"choices\":2,\"returns\":\"rows\",\"points\":[%s]}]",
                 key, ranks, points) > 0);
    return text;
}

#define POINT(tokens, busiest, choice) "{\"tokens\":" #tokens ",\"busiest\":" #busiest ",\"choice\":\"" choice "\"}"

static void test_find(void **state)
{
    (void)state;
    /* the last is of a newer build */
    char *ep = layer_of(2, POINT(64, 200, "transport=a") "," POINT(64, 128, "transport=b") "," POINT(
                               256, 600, "transport=c") "," POINT(64, 130, "transport=b,wings=2"));
    char *text = table_of(ep);
    static const struct {
        int64_t tokens;
        const char *choice;
    } cases[] = {{64, "transport=b"},   {127, "transport=b"}, {129, "transport=c"}, {256, "transport=c"},
                 {1024, "transport=c"}, {1025, NULL},         {16, "transport=b"},  {15, NULL}};
    moet_table *table;
    moet_problem local = layer;
    local.experts = 6;
    TEST_OK(moet_table_parse(text, strlen(text), NULL, true, host, &table));
    assert_int_equal(table->ep_count, 1);
    assert_int_equal(table->ep[0].point_count, 3);
    moet_ep_options options = {.ranks = 2, .choices = 2};
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        options.max_tokens = cases[i].tokens;
        const char *found = moet_ep_choice_find(table, &local, &options, 1);
        if (!cases[i].choice ? found != NULL : !found || strcmp(found, cases[i].choice) != 0)
            test_fail("%lld tokens: %s", (long long)cases[i].tokens, found ? found : "nothing");
    }
    options.max_tokens = 64;
    local.prob = MOET_PROB_COMBINE; /* changes nothing that crosses */
    assert_non_null(moet_ep_choice_find(table, &local, &options, 1));
    assert_null(moet_ep_choice_find(NULL, &local, &options, 1));
    assert_null(moet_ep_choice_find(table, &local, &options, 2));
    options.returns = MOET_EP_RETURNS_SUMS;
    assert_null(moet_ep_choice_find(table, &local, &options, 1));
    options.returns = MOET_EP_RETURNS_ROWS;
    options.choices = 3;
    assert_null(moet_ep_choice_find(table, &local, &options, 1));
    options.choices = 2;
    local.numerics = MOET_NUMERICS_FAST;
    assert_null(moet_ep_choice_find(table, &local, &options, 1));
    moet_table_close(table);

    moet_device elsewhere = *host; /* another device's are read for their form only */
    strcpy(elsewhere.key, "another");
    TEST_OK(moet_table_parse(text, strlen(text), NULL, true, &elsewhere, &table));
    assert_int_equal(table->ep_count, 0);
    moet_table_close(table);
    free(text);
    free(ep);
    text = table_of(NULL);
    TEST_OK(moet_table_parse(text, strlen(text), NULL, true, host, &table));
    assert_int_equal(table->ep_count, 0);
    moet_table_close(table);
    free(text);
}

static void test_malformed(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *words;
    } cases[] = {
        {"[{\"problem\"", "{\"problem\"", "\"ep\" must be a list"}, /* closed below */
        {"\"problem\":\"op=ffn", "\"problem\":\"op=", "ep[0]"},
        {"\"problem\":", "\"riddle\":", "ep[0]: \"problem\" must be a text"},
        {"\"ranks\":2", "\"ranks\":0", "\"ranks\" must be an integer, 1 to 1024"},
        {"\"ranks\":2", "\"ranks\":\"2\"", "\"ranks\" must be a number"},
        {"\"hosts\":1", "\"hosts\":3", "\"hosts\" must be an integer, 1 to 2"},
        {"\"choices\":2", "\"choices\":17", "\"choices\" must be an integer, 1 to 16"},
        {"\"rows\"", "\"columns\"", "must be rows or sums"},
        {"\"points\":[{\"tokens", "\"pints\":[{\"tokens", "\"points\" must be a list"},
        {"\"tokens\":64", "\"tokens\":0", "points[0]: \"tokens\""},
        {"\"tokens\":64", "\"tokens\":64.5", "points[0]: \"tokens\""},
        {"\"tokens\":64", "\"tokens\":1000000", "points[0]: \"tokens\""},
        {"\"busiest\":128", "\"busiest\":127", "points[0]: \"busiest\" is 127, less than its share of 256 rows"},
        {"\"busiest\":128", "\"busiest\":257", "\"busiest\" must be an integer, 1 to 256"},
        {"\"choice\":\"transport=lsa\"", "\"choice\":7", "\"choice\" must be a text"},
    };
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) {
        moet_table *table = NULL;
        char *ep = text_replace(layer_of(2, POINT(64, 128, "transport=lsa")), cases[i].from, cases[i].to);
        if (i == 0) ep[strlen(ep) - 1] = '\0';
        char *text = table_of(ep);
        TEST_FAILS(MOET_MALFORMED, cases[i].words, moet_table_parse(text, strlen(text), NULL, true, host, &table));
        assert_null(table);
        free(text);
        free(ep);
    }
}

/* ---- layers ---- */

/* A layer's line on this rank into text, "" where it cannot be created. */
static moet_status describe(const char *table_dir, const moet_ep_options *options, char text[512])
{
    moet_handle *handle = NULL;
    moet_ep *ep = NULL;
    moet_status status = moet_open(table_dir, "host", &handle);
    if (status == MOET_OK) status = moet_ep_create(handle, &layer, options, &ep);
    snprintf(text, 512, "%s", status == MOET_OK ? moet_ep_describe(ep) : "");
    moet_ep_destroy(ep);
    moet_close(handle);
    return status;
}

static moet_ep_options options_of(int32_t rank, int32_t ranks, int32_t port, int64_t tokens)
{
    moet_ep_options options;
    moet_ep_options_init(&options, MOET_NUMERICS_TRAIN);
    options.rank = rank;
    options.ranks = ranks;
    options.choices = 2;
    options.max_tokens = tokens;
    options.timeout_ms = 20000;
    snprintf(options.rendezvous, sizeof options.rendezvous, "127.0.0.1:%d", port);
    return options;
}

/* Writes a table with these points of a layer of so many ranks into folder/name. */
static void write_table(const char *name, int32_t ranks, const char *points, char dir[512])
{
    char *ep = layer_of(ranks, points), *text = table_of(ep);
    snprintf(dir, 512, "%s/%s", folder, name);
    assert_int_equal(mkdir(dir, 0700), 0);
    text_write(dir, text);
    free(text);
    free(ep);
}

typedef struct pair_case {
    const char *tables[2]; /* of rank 0 and 1 */
    int64_t tokens;
    int32_t chunks; /* asked for; 0: open */
    const char *transport;
    moet_status status;
    const char *words; /* of the layer's line, or of the error */
} pair_case;

static int run_rank(const pair_case *c, int32_t rank, int32_t port)
{
    char text[512], dir[512];
    moet_ep_options options = options_of(rank, 2, port, c->tokens);
    options.chunks = c->chunks;
    snprintf(options.transport, sizeof options.transport, "%s", c->transport);
    snprintf(dir, sizeof dir, "%s/%s", folder, c->tables[rank] ? c->tables[rank] : "");
    const moet_status status = describe(c->tables[rank] ? dir : NULL, &options, text);
    const char *said = status == MOET_OK ? text : moet_last_error();
    if (status == c->status && strstr(said, c->words)) return 0;
    fprintf(stderr, "rank %d: %s: '%s', %s with '%s' expected\n", rank, moet_status_name(status), said,
            moet_status_name(c->status), c->words);
    return 1;
}

/* Ranks on different devices find different things in one table: here each has a table of its own. */
static int find_others(const pair_case *c, int32_t rank, int32_t port)
{
    char dir[512];
    moet_table *table = NULL;
    moet_ep_comm *control = NULL;
    moet_problem local = layer;
    moet_ep_options options = options_of(rank, 2, port, c->tokens);
    bool is_chosen = true;
    local.experts /= 2;
    snprintf(dir, sizeof dir, "%s/%s", folder, c->tables[rank]);
    moet_status status = moet_table_load(dir, host, &table);
    if (status == MOET_OK) status = moet_ep_meet(host, &options, NULL, &control);
    if (status == MOET_OK) status = moet_ep_choose(table, &local, control, &options, &is_chosen);
    const bool is_right = status == MOET_OK && is_chosen == (strcmp(c->tables[0], c->tables[1]) == 0) &&
                          is_chosen != moet_ep_choice_is_open(&options);
    if (!is_right) fprintf(stderr, "rank %d: %s, chosen: %d\n", rank, moet_status_name(status), is_chosen);
    moet_ep_comm_destroy(control);
    moet_table_close(table);
    return !is_right;
}

/* Before anything else that starts threads, as the ranks are forked. */
static void spawn_pair(const pair_case *c, int (*function)(const pair_case *c, int32_t rank, int32_t port), int32_t nth)
{
    const int32_t port = 26000 + (int32_t)(getpid() % 1000) * 4 + nth % 4;
    pid_t children[2];
    fflush(NULL);
    for (int32_t r = 0; r < 2; r++) {
        children[r] = fork();
        assert_true(children[r] >= 0);
        if (children[r] == 0) {
            alarm(60);
            _exit(function(c, r, port));
        }
    }
    for (int32_t r = 0; r < 2; r++) {
        int how = 0;
        assert_int_equal(waitpid(children[r], &how, 0), children[r]);
        if (how != 0) test_fail("case %d: rank %d", nth, r);
    }
}

static void test_pairs(void **state)
{
    (void)state;
    static const pair_case cases[] = {
        {{"both", "both"},
         64,
         0,
         "",
         MOET_OK,
         "exchange over socket, met by socket, ranks=2, returns=rows, chunks=2, comm_sms=0 by the table"},
        {{"both", "both"}, 64, 0, "auto", MOET_OK, "chunks=2, comm_sms=0 by the table"},
        {{"both", "both"},
         1024,
         0,
         "",
         MOET_OK,
         "lsa over memory, met by socket, ranks=2, returns=rows, chunks=1, comm_sms=0,"},
        {{"both", "both"},
         64,
         1,
         "",
         MOET_OK,
         "lsa over memory, met by socket, ranks=2, returns=rows, chunks=1, comm_sms=0,"},
        {{"both", "both"}, 64, 0, "exchange", MOET_OK, "returns=rows, chunks=1, comm_sms=0,"},
        {{"pigeon", "pigeon"}, 64, 0, "", MOET_OK, "lsa over memory"}, /* a transport that is none */
        {{"bound", "bound"}, 64, 0, "", MOET_OK, "lsa over memory"},   /* one that cannot return rows */
        {{NULL, NULL}, 64, 0, "", MOET_OK, "lsa over memory"},
        {{"both", "one"}, 64, 0, "", MOET_MISMATCH, "ranks differ: rank 0 has table="},
        {{"both", NULL}, 64, 0, "", MOET_MISMATCH, "rank 1 has table=none"},
    };
    char dir[512];
    write_table("both", 2, POINT(64, 140, TWO_CHUNKS), dir);
    write_table("one", 2, POINT(64, 140, ONE), dir);
    write_table("pigeon", 2, POINT(64, 140, "transport=pigeon,chunks=2"), dir);
    write_table("bound", 2, POINT(64, 140, "transport=bound,chunks=1"), dir);
    for (int32_t i = 0; i < MOET_COUNT_OF(cases); i++) spawn_pair(&cases[i], run_rank, i);
    spawn_pair(&(pair_case){.tables = {"both", "both"}, .tokens = 64}, find_others, MOET_COUNT_OF(cases));
    spawn_pair(&(pair_case){.tables = {"both", "one"}, .tokens = 64}, find_others, MOET_COUNT_OF(cases) + 1);
}

static void test_one_rank(void **state)
{
    (void)state;
    char dir[512], text[512];
    write_table("single", 1, POINT(64, 128, TWO_CHUNKS), dir);
    moet_ep_options options = options_of(0, 1, 1, 32);
    TEST_OK(describe(dir, &options, text));
    TEST_CONTAINS(text, "chunks=2, comm_sms=0 by the table");
    options.max_tokens = 1; /* the nearest is too far */
    TEST_OK(describe(dir, &options, text));
    TEST_CONTAINS(text, "chunks=1, comm_sms=0,");
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    setenv("OMP_WAIT_POLICY", "passive", 0);
    problem_init();
    test_folder_make(folder);
    if (moet_device_open("host", &host) != MOET_OK) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pairs), cmocka_unit_test(test_text),
                                       cmocka_unit_test(test_find), cmocka_unit_test(test_malformed),
                                       cmocka_unit_test(test_one_rank)};
    const int failed = cmocka_run_group_tests_name("ep_choice", tests, NULL, NULL);
    moet_device_close(host);
    test_folder_remove(folder);
    return failed;
}
