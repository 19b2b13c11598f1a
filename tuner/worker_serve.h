/* worker_serve: the worker's side of worker.h: what requests do, on a bench. */
#ifndef MOET_WORKER_SERVE_H
#define MOET_WORKER_SERVE_H

#include "../bench/bench.h"
#include "message.h"

/* Requests, with their body and that of a reply that is OK. A trial is what serve puts by put_trial. */
#define MOET_REQUEST_TABLE(X)                                                                                          \
    X(OPEN)     /* device -> info, key, devices of the backend, libraries */                                           \
    X(BEGIN)    /* seed -> ceilings, their work */                                                                     \
    X(LIST)     /* problem, counts, config, limit -> of each: true, config; false */                                   \
    X(WORKLOAD) /* problem, counts, tokens -> flops, bytes */                                                          \
    X(RACING)   /* is_racing -> */                                                                                     \
    X(ADD)      /* config, device_counts -> trial, cubins, algorithms */                                               \
    X(AGAIN)    /* subject -> trial */                                                                                 \
    X(ROUND)    /* -> number, of each that was active: subject, trial, its sample */                                   \
    X(RETIRE)   /* subject -> */
typedef enum moet_request {
#define MOET_X(name) MOET_REQUEST_##name,
    MOET_REQUEST_TABLE(MOET_X)
#undef MOET_X
        MOET_REQUEST_COUNT
} moet_request;
/* What the worker says: what it is about to do (subject, step), any number of times; then the answer (status, the last
 * error, the reply's body). */
#define MOET_SAYS_STEP 100
#define MOET_SAYS_REPLY 101

/* A zero one is new; moet_server_release makes it so again. */
typedef struct moet_server {
    moet_device *device;
    moet_bench *bench;
    moet_bench_watch notify; /* of steps; NULL: nobody */
    void *notify_context;
    /* the latest step of the request in progress, or of the last one */
    int32_t step_subject; /* -1: the bench's own */
    moet_step step;
} moet_server;
void moet_server_release(moet_server *server);

/* Does one request. On an error the reply is empty; on DEVICE and NO_MEMORY the bench cannot go on, and the last error
 * is that of the step's subject. */
moet_status moet_server_handle(moet_server *server, uint32_t request, moet_message *body, moet_message *reply);

#endif
