/* worker_process: the process behind a worker: this program, started again with MOET_WORKER_WORD as its command and one
 * end of a socket pair as file MOET_WORKER_SOCKET. It ignores the terminal's signals, and ends with the thread that
 * started it. */
#ifndef MOET_WORKER_PROCESS_H
#define MOET_WORKER_PROCESS_H

#include <sys/types.h>

#include "../src/status.h"

#define MOET_WORKER_WORD "worker-process"
#define MOET_WORKER_SOCKET 3

/* The worker's side: answers requests until the other end is closed. Returns an exit code. */
int moet_worker_main(int argc, char **argv);

/* Starts one, on the part-th of so many parts of the processors (parts 0: on all); *socket is the near end. */
moet_status moet_worker_start(int32_t part, int32_t parts, pid_t *process, int *socket);
/* Kills it if it has not ended within grace_ns, waits for it, and says how it ended, "was killed by signal 11
 * (Segmentation fault)", into how[MOET_REASON_SIZE]. DEVICE where it does not even die: the driver holds it. */
moet_status moet_worker_end(pid_t process, int64_t grace_ns, char *how);

#endif
