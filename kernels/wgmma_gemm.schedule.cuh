/* wgmma_gemm.schedule.cuh: in front of wgmma_gemm.cu: which tile a ticket is. */

/* How the tiles are walked; from the configuration. */
struct moet_choice {
    int group;      /* row tiles of a band */
    int by_columns; /* clusters: pair column tiles (share x) first, not row tiles (share w) */
    int light_rows; /* experts of fewer rows are walked beside the others, not after them; 0: all in their order */
    int quarters;   /* of the tickets, the first ones: the others' are spread over these */
    int bulk_store; /* full 16 x 64 blocks of out are stored by the copy engine */
    int allows_next; /* the next launch may begin on SMs that this one leaves or has not taken */
};

/* In shared memory. A ticket is MOET_CLUSTER tiles of one expert, or one tile where it has no other left. */
struct moet_tickets {
    int whole;             /* of all experts, before any is cut */
    int split;             /* the last ones: each becomes two tickets of half a tile */
    int heavy_places;      /* experts that are not light, and their tickets: these come first in order[] */
    int heavy;
    unsigned light_share;  /* of light tickets while there are heavy ones, in units of 2^-32, rounded up */
    int blocks[MOET_MATH_GROUPS]; /* ping-pong: K blocks of the tile that a warpgroup took last; -1: it saw the end */
    int mailbox[MOET_STAGES]; /* clusters: tickets that rank 0 took, for rank 1 */
};
static_assert(sizeof(struct moet_tickets) == (MOET_TICKETS_WORDS + MOET_STAGES) * 4, "smem_bytes in wgmma_gemm.c");

/* A product, and how far the launch has to go for it. */
struct moet_job {
    int act, has_bias, gathers, scatters; /* constants: as MOET_ACT and so on, of this product */
    int is_second;                        /* a constant: of a chain, the down GEMM */
    const struct moet_map *x, *w, *out_map;
    const unsigned short *bias;
    unsigned short *out;
    struct moet_choice choice;
    struct moet_tickets *tickets;
    int *row_starts;       /* [experts + 1]: rows of expert e from row_starts[e] to row_starts[e + 1] */
    int *ticket_starts;    /* [experts + 1]: tickets of the expert order[p] from ticket_starts[p] to the next */
    unsigned short *order; /* [experts] */
    int experts, n, k_blocks, n_tiles; /* n: columns of w */
    float n_tiles_before; /* of a chain: as many column tiles of this product are the one before it; else 0 */
    int out_n;         /* columns of out */
    const float *prob; /* of each row of out, with MOET_PROB */
    float clamp;
    int ready_signals, all_signals; /* of a chain, the down GEMM: those that a row tile of x, or all, are there after */
    const unsigned short *x_rows; /* gathering: x, elements from row to row, and the row of x of each row */
    long long x_stride;
    const int *source;
    int k;
    unsigned short *scattered; /* scattering: rows with a target go there and not to out */
    long long scattered_stride; /* elements from one row there to the next */
    const int *target; /* of each row; -1: none */
};

struct moet_tile {
    int expert;
    int row;     /* first row in x and out */
    int rows;    /* that are to be computed, at most TILE_ROWS; 0: none, the CTA only keeps step with its cluster */
    int col;     /* first column */
    int is_half; /* half of the columns; swapped, of the rows */
    int row_tile; /* of a chain: a number of the whole tile's rows among those of all experts, MOET_READY_ROWS apart */
    int share;   /* what both CTAs of the cluster need: nothing, w or x */
    unsigned w_policy; /* L2's for w: a light expert's is soon done with and must not push out what heavy ones share */
};
enum { MOET_SHARE_NOTHING, MOET_SHARE_W, MOET_SHARE_X };

/* Counter of the tickets taken (beyond the first of each cluster, but in a chain), and of the clusters that found none
 * left: the last of these clears both for the next launch. Launches of one loaded module must follow each other. */
__device__ unsigned moet_taken, moet_left;

__device__ __forceinline__ int moet_clusters(void) { return gridDim.x / MOET_CLUSTER; }

__device__ __forceinline__ int moet_row_tiles(int rows) { return (rows + MOET_TILE_ROWS - 1) / MOET_TILE_ROWS; }

/* Rows of a row tile of an expert with this many rows. Swapped, the width of the instruction follows the tile, in
 * steps of 16: the tiles of an expert are made equal. */
__device__ __forceinline__ int moet_tile_height(int rows)
{
    if (!MOET_SWAP) return MOET_TILE_ROWS;
    const int tiles = moet_row_tiles(rows);
    return ((rows + tiles - 1) / tiles + 15) / 16 * 16;
}

/* Row tiles of a band, at most `group` of them, in bands of equal height; in clusters even. */
__device__ __forceinline__ int moet_band_height(int row_tiles, int group)
{
    const int bands = (row_tiles + group - 1) / group;
    const int height = (row_tiles + bands - 1) / bands;
    return MOET_CLUSTER == 1 ? height : (height + 1) / 2 * 2;
}

/* Tickets of a block of tiles; clusters: pairs of row tiles of one column and of column tiles of the last row, or the
 * other way round. */
__device__ __forceinline__ int moet_tickets_of(int row_tiles, int n_tiles, int by_columns)
{
    if (MOET_CLUSTER == 1) return row_tiles * n_tiles;
    if (by_columns) return n_tiles / 2 * row_tiles + (n_tiles & 1) * ((row_tiles + 1) / 2);
    return row_tiles / 2 * n_tiles + (row_tiles & 1) * ((n_tiles + 1) / 2);
}

/* Sum of `value` over lanes 0 .. own. */
__device__ __forceinline__ int moet_scan(int value)
{
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        int below = __shfl_up_sync(0xffffffffu, value, step);
        if (lane >= step) value += below;
    }
    return value;
}

__device__ __forceinline__ int moet_sum(int value) { return __shfl_sync(0xffffffffu, moet_scan(value), 31); }

/* How many of the last whole tickets are cut in halves: those of a last wave that fills at most half of the CTAs. Then
 * they take half the time on all. padded_rows: what is computed, full tiles or not. */
__device__ __forceinline__ int moet_split_of(int padded_rows, const struct moet_job *job, int whole)
{
    if (!MOET_SPLIT || (MOET_CHAIN && !job->is_second)) return 0; /* the down GEMM's tiles follow at once */
    const float n_tiles = (float)job->n_tiles + job->n_tiles_before;
    const float waves = (float)padded_rows * n_tiles / ((float)MOET_TILE_ROWS * (float)gridDim.x);
    const float last = waves - floorf(waves);
    return last > 0.5f ? 0 : min((int)ceilf(last * (float)moet_clusters()), whole);
}

/* One warp fills *job->tickets and the three arrays. Counts are not to be trusted: negative ones are 0, and rows past
 * max_rows (at most 2^20) do not exist. */
__device__ __forceinline__ void moet_schedule(const int *counts, const struct moet_job *job, int max_rows)
{
    /* Each lane has some experts in a row. */
    const int experts = job->experts, lane = threadIdx.x & 31, each = (experts + 31) / 32;
    const int first = min(lane * each, experts), end = min(first + each, experts);
    int *const row_starts = job->row_starts, *const ticket_starts = job->ticket_starts;
    int rows = 0;
    for (int e = first; e < end; e++) {
        const int count = min(max(counts[e], 0), max_rows);
        row_starts[e + 1] = count;
        rows += count;
    }
    int row = moet_scan(rows) - rows;
    int padded = 0, heavy = 0, light = 0, heavy_tickets = 0, light_tickets = 0;
    for (int e = first; e < end; e++) {
        const int begin = min(row, max_rows);
        row += row_starts[e + 1];
        const int stop = min(row, max_rows), own = stop - begin;
        const int tickets = moet_tickets_of(moet_row_tiles(own), job->n_tiles, job->choice.by_columns);
        const int step = MOET_SWAP ? 16 : 64;
        row_starts[e + 1] = stop;
        padded += (own + step - 1) / step * step;
        if (own < job->choice.light_rows)
            light++, light_tickets += tickets;
        else
            heavy++, heavy_tickets += tickets;
    }
    if (lane == 0) row_starts[0] = ticket_starts[0] = 0;
    __syncwarp();

    const int all_heavy = moet_sum(heavy), all_heavy_tickets = moet_sum(heavy_tickets);
    const int all_light_tickets = moet_sum(light_tickets), all_padded = moet_sum(padded);
    heavy = moet_scan(heavy) - heavy, heavy_tickets = moet_scan(heavy_tickets) - heavy_tickets;
    light = all_heavy + moet_scan(light) - light;
    light_tickets = all_heavy_tickets + moet_scan(light_tickets) - light_tickets;
    for (int e = first; e < end; e++) {
        const int own = row_starts[e + 1] - row_starts[e];
        const int tickets = moet_tickets_of(moet_row_tiles(own), job->n_tiles, job->choice.by_columns);
        if (own < job->choice.light_rows) {
            job->order[light] = (unsigned short)e;
            ticket_starts[++light] = light_tickets += tickets;
        } else {
            job->order[heavy] = (unsigned short)e;
            ticket_starts[++heavy] = heavy_tickets += tickets;
        }
    }
    if (lane == 0) {
        struct moet_tickets *tickets = job->tickets;
        const int whole = all_heavy_tickets + all_light_tickets;
        const int is_mixed = all_heavy_tickets > 0 && all_light_tickets > 0;
        tickets->whole = whole;
        tickets->split = moet_split_of(all_padded, job, whole);
        tickets->heavy_places = is_mixed ? all_heavy : 0; /* else one walk from the first place */
        tickets->heavy = is_mixed ? all_heavy_tickets : 0;
        const int spread = max(whole / 4 * job->choice.quarters + whole % 4, all_heavy_tickets);
        tickets->light_share =
            is_mixed ? (unsigned)((((unsigned long long)(spread - all_heavy_tickets) << 32) + spread - 1) / spread) : 0;
        for (int i = 0; i < MOET_MATH_GROUPS; i++) tickets->blocks[i] = 0;
    }
}

/* Where each walk is: places in order[] before which it does not come back. */
struct moet_walk {
    int heavy, light;
};

/* The tile that this ticket gives to this rank, for a whole warp. Tickets ascend from call to call. Inside an expert,
 * bands of row tiles are walked with rows innermost: CTAs that run at the same time share tiles of w and of x. */
__device__ __forceinline__ void moet_locate(const struct moet_job *job, int ticket, int rank, struct moet_walk *walk,
                                            struct moet_tile *at)
{
    const struct moet_tickets *tickets = job->tickets;
    int half = 0;
    if (MOET_SPLIT && ticket >= tickets->whole - tickets->split) {
        const int cut = ticket - (tickets->whole - tickets->split);
        half = 1 + (cut & 1);
        ticket -= (cut + 1) / 2;
    }
    /* Light tickets are spread evenly over the heavy ones; what is left follows these. */
    const unsigned share = tickets->light_share;
    const int heavy = tickets->heavy;
    const int light_before = max((int)__umulhi((unsigned)ticket, share), ticket - heavy);
    const int is_light = max((int)__umulhi((unsigned)ticket + 1, share), ticket + 1 - heavy) > light_before;
    const int index = is_light ? heavy + light_before : ticket - light_before;

    /* A warp looks at 32 places at a time. ticket_starts ascends and its last entry is past `index`: this ends. */
    int place = is_light ? walk->light : walk->heavy, passed;
    do {
        const int next = place + 1 + (int)(threadIdx.x & 31);
        const int is_passed = next <= job->experts && job->ticket_starts[next] <= index;
        passed = __popc(__ballot_sync(0xffffffffu, is_passed));
        place += passed;
    } while (passed == 32);
    if (is_light)
        walk->light = place;
    else
        walk->heavy = place;

    at->expert = job->order[place];
    const int row_first = job->row_starts[at->expert], row_end = job->row_starts[at->expert + 1];
    const int row_tiles = moet_row_tiles(row_end - row_first), n_tiles = job->n_tiles;
    const int in_expert = index - job->ticket_starts[place];
    const int band_height = moet_band_height(row_tiles, job->choice.group);
    const int band_tickets = band_height * n_tiles / MOET_CLUSTER, band = in_expert / band_tickets;
    const int in_band = in_expert - band * band_tickets;
    const int height = min(band_height, row_tiles - band * band_height);
    int row_tile, n_tile;
    at->share = MOET_SHARE_NOTHING;
    if (MOET_CLUSTER == 1) {
        n_tile = in_band / height;
        row_tile = in_band - n_tile * height;
    } else if (job->choice.by_columns) {
        const int pairs = n_tiles / 2;
        if (in_band < pairs * height) {
            n_tile = in_band / height;
            row_tile = in_band - n_tile * height;
            n_tile = 2 * n_tile + rank;
            at->share = MOET_SHARE_X;
        } else {
            n_tile = 2 * pairs;
            row_tile = 2 * (in_band - pairs * height) + rank;
            if (row_tile - rank + 1 < height) at->share = MOET_SHARE_W;
        }
    } else {
        /* Two columns at a time, for the last row tile of an odd height has its pair in the other column. */
        const int pairs = height / 2, of_two = 2 * pairs + (height & 1), two = in_band / of_two;
        const int in_two = in_band - two * of_two, is_second = in_two >= pairs && 2 * two + 1 < n_tiles;
        n_tile = 2 * two + is_second;
        row_tile = 2 * (in_two - (is_second ? pairs : 0)) + rank;
        if (row_tile - rank + 1 < height) {
            at->share = MOET_SHARE_W;
        } else {
            row_tile -= rank;
            n_tile = 2 * two + rank;
            if (2 * two + 1 < n_tiles) at->share = MOET_SHARE_X;
        }
    }
    at->w_policy = heavy && is_light ? MOET_L2_EVICT_FIRST : MOET_L2_NORMAL;
    const int rows_of_tile = moet_tile_height(row_end - row_first);
    at->row = row_first + (band * band_height + row_tile) * rows_of_tile;
    at->rows = row_tile < height && n_tile < n_tiles ? min(row_end - at->row, rows_of_tile) : 0;
    at->col = n_tile * MOET_TILE_COLS;
    at->is_half = half != 0;
    at->row_tile = at->row / MOET_READY_ROWS + at->expert;
    if (MOET_SPLIT && half) {
        if (MOET_SWAP) {
            const int upper = ((at->rows + 1) / 2 + 15) / 16 * 16;
            at->row += half == 2 ? upper : 0;
            at->rows = half == 2 ? max(at->rows - upper, 0) : min(at->rows, upper);
        } else {
            at->col += half == 2 ? MOET_TILE_COLS / 2 : 0;
            if (MOET_CLUSTER == 1 && at->col >= job->n) at->rows = 0;
        }
    }
}

/* The tile's first column of out, and past its last one. */
__device__ __forceinline__ int moet_out_col(const struct moet_job *job, const struct moet_tile *at)
{
    return job->act ? at->col / 2 : at->col;
}

__device__ __forceinline__ int moet_out_end(const struct moet_job *job, const struct moet_tile *at)
{
    const int cols = MOET_OUT_COLS(job->act);
    return min(job->out_n, moet_out_col(job, at) + (!MOET_SWAP && at->is_half ? cols / 2 : cols));
}
