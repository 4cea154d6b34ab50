/* SPDX-License-Identifier: MIT */
/*
** thread.c: threads of the library's own. They get no signals: those are the
** application's.
*/
#include "internal.h"

#include <signal.h>

bool thread_start(pthread_t *thread, void *(*function)(void *), void *context) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int error = pthread_create(thread, NULL, function, context);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return !error;
}
