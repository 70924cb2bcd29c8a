/* Sleeps for ever and reaps whatever is orphaned to it. It is the first process of the node's PID namespace
   and, as an image, of every pod's sandbox. Linked statically, so that it runs in an empty root. */
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void stop(int signal) { (void)signal; _exit(0); }
/* The node's first process dies with its starter until it is told that the node is to stay. The name tells
   the starter that it may go. */
static void stay(int signal) { (void)signal; prctl(PR_SET_PDEATHSIG, 0); prctl(PR_SET_NAME, "vnpu-stays"); }
static void reap(int signal) { (void)signal; while (waitpid(-1, NULL, WNOHANG) > 0) { } }

int main(int count, char **arguments)
{
    struct sigaction action = { .sa_flags = SA_NOCLDSTOP };
    (void)arguments;
    action.sa_handler = reap;
    sigaction(SIGCHLD, &action, NULL);
    /* As a pod's sandbox it ends when asked; as the node's first process only by SIGKILL from outside. */
    if (count < 2) {
        action.sa_handler = stop;
        sigaction(SIGTERM, &action, NULL);
        sigaction(SIGINT, &action, NULL);
    } else {
        action.sa_handler = stay;
        sigaction(SIGUSR1, &action, NULL);
    }
    for (;;)
        pause();
}
