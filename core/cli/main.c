/* SPDX-License-Identifier: MIT */
/*
** main.c: the dibs program: read the command line, run the command, see that
** its output arrived. Signals are noted here, for commands that wait.
*/
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* ------------------------------------------------------------------------ */
/* Signals                                                                  */
/* ------------------------------------------------------------------------ */

static volatile sig_atomic_t interrupted;
static dibs_db *volatile waiting; /* interrupted by a signal; NULL: none */
static int signal_pipe[2] = {-1, -1};

/* Only what a signal handler may call: see signal-safety(7). */
static void note_signal(int number) {
  int saved = errno;
  (void)number;
  interrupted = 1;
  if (waiting) dibs_interrupt(waiting);
  if (write(signal_pipe[1], "", 1) < 0) errno = saved;
  errno = saved;
}

void cli_catch_signals(dibs_db *db) {
  struct sigaction action;
  waiting = db;
  if (pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) != 0) return;
  memset(&action, 0, sizeof action);
  action.sa_handler = note_signal;
  (void)sigemptyset(&action.sa_mask);
  (void)sigaction(SIGINT, &action, NULL);
  (void)sigaction(SIGTERM, &action, NULL);
}

void cli_forget_signals(void) {
  waiting = NULL;
}

int cli_interrupted(void) {
  return interrupted;
}

int cli_signal_fd(void) {
  return signal_pipe[0];
}

/* ------------------------------------------------------------------------ */
/* The program                                                              */
/* ------------------------------------------------------------------------ */

static int no_command(void) {
  if (output_json())
    return cli_error(DIBS_INVALID, "no command was given; dibs --help lists "
                                   "them");
  help_print(stderr, NULL);
  return dibs_status_exit_code(DIBS_INVALID);
}

static int show_help(const struct cli *cli) {
  if (cli->group) {
    help_print_group(stdout, cli->group);
  } else {
    help_print(stdout, cli->command);
  }
  return 0;
}

static int run(struct cli *cli) {
  if (cli_has(cli, OPTION_HELP)) return show_help(cli);
  if (cli_has(cli, OPTION_VERSION)) return run_version(cli);
  if (cli->command == NULL) return no_command();
  int code = cli_check(cli);
  return code ? code : cli->command->run(cli);
}

/*
** Where standard input, output or error is closed, the next file to be opened
** would take its place, and be read or written as such. What is put there
** instead fails as a closed one does.
*/
static void fill_standard(void) {
  for (int fd = 0; fd < 3; fd++) {
    if (fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
    if (open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) < 0) return;
  }
}

int main(int argc, char **argv) {
  struct cli cli;
  fill_standard();
  (void)signal(SIGPIPE, SIG_IGN);
  (void)signal(SIGXFSZ, SIG_IGN); /* a file too large is an error to be told */
  int code = cli_parse(&cli, argc, argv);
  if (code == 0) code = run(&cli);
  cli_free(&cli);
  int lost = output_finish();
  return code ? code : lost;
}
