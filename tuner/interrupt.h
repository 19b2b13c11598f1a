/* interrupt: an orderly end of a long command by Ctrl-C, kill and a terminal that goes away. */
#ifndef MOET_INTERRUPT_H
#define MOET_INTERRUPT_H

#include <signal.h>

/* From here on the first SIGINT, SIGTERM or SIGHUP makes the flag that is returned 1, and asks for an end soon. One
 * that comes a second or more after it ends the process at once; until then it counts as the same wish: timeout and
 * schedulers signal a process and its group, and so it twice. SIGHUP stays ignored where it is (nohup). */
const volatile sig_atomic_t *moet_interrupt_catch(void);

#endif
