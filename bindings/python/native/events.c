/* SPDX-License-Identifier: MIT */
/*
** events.c: what the core has to tell (lapsed leases, dead jobs). It comes in the
** midst of a transaction, by a thread without the GIL, which must not wait for
** it: so it is noted, and told by the next call of Python's that ends.
*/
#include "native.h"

#include <stdlib.h>
#include <string.h>

struct event {
  struct event *next;
  int level;
  int64_t id;
  char *name;
  char *queue;
  char *message;
};

static char *text_copy(const char *text) {
  return text ? strdup(text) : NULL;
}

static void event_free(struct event *event) {
  free(event->name);
  free(event->queue);
  free(event->message);
  free(event);
}

/* Called by the core. Without memory, nothing is told. */
void event_note(void *context, const dibs_log_event *event) {
  struct events *events = context;
  struct event *noted = calloc(1, sizeof *noted);
  if (!noted) return;
  noted->level = event->level;
  noted->id = event->id;
  noted->name = text_copy(event->event);
  noted->queue = text_copy(event->queue);
  noted->message = text_copy(event->message);
  pthread_mutex_lock(&events->mutex);
  noted->next = events->newest;
  events->newest = noted;
  pthread_mutex_unlock(&events->mutex);
}

static struct event *events_take(struct events *events) {
  struct event *newest = NULL, *oldest = NULL;
  pthread_mutex_lock(&events->mutex);
  newest = events->newest;
  events->newest = NULL;
  pthread_mutex_unlock(&events->mutex);
  while (newest) {
    struct event *next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  return oldest;
}

/* With an exception set or without; it stays as it is. */
void events_tell(struct events *events) {
  PyObject *type, *value, *trace;
  if (!__atomic_load_n(&events->newest, __ATOMIC_ACQUIRE)) return;
  PyErr_Fetch(&type, &value, &trace);
  for (struct event *event = events_take(events), *next; event; event = next) {
    next = event->next;
    PyObject *told =
        Py_BuildValue("(iNNNN)", event->level, text_object(event->name),
                      PyLong_FromLongLong(event->id), text_object(event->queue),
                      text_object(event->message));
    event_tell(told);
    Py_XDECREF(told);
    event_free(event);
  }
  PyErr_Restore(type, value, trace);
}

void events_init(struct events *events) {
  pthread_mutex_init(&events->mutex, NULL);
}

void events_free(struct events *events) {
  for (struct event *event = events_take(events), *next; event; event = next) {
    next = event->next;
    event_free(event);
  }
  pthread_mutex_destroy(&events->mutex);
}
