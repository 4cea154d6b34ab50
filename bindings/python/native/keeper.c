/* SPDX-License-Identifier: MIT */
/*
** keeper.c: a thread that extends the leases of jobs that were claimed by hand,
** while a block of Python's works on them. It needs no GIL, so a block that holds
** it for long keeps its lease all the same. (An engine does that by itself.)
**
** The thread is started by the first job and opens its connection when the first
** lease is a third over: short jobs cost it nothing.
*/
#include "native.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TRY_AGAIN 1000 /* ms, when the database cannot be used */
#define TOGETHER  100  /* leases that are extended in one transaction */

struct kept {
  struct kept *next;
  uint64_t number;
  int64_t lease; /* ms */
  int64_t due;   /* when to extend it, monotonic ms */
  char *receipt;
};

typedef struct KeeperObject {
  PyObject ob_base;
  PyObject *keeps; /* settings and provider */
  char *path;
  dibs_open_options options;
  struct events events;
  pid_t pid;
  bool started; /* the thread; under the GIL */
  pthread_t thread;
  dibs_db *db; /* the thread's */
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  struct kept *jobs; /* under the mutex, as what follows */
  uint64_t numbers;
  bool closing;
} KeeperObject;

static PyTypeObject *keeper_type;

/* ------------------------------------------------------------------ thread */

/* A lease that is due, as it is extended. */
struct extension {
  uint64_t number;
  char *receipt;
};

static int64_t jobs_due(const KeeperObject *self) {
  int64_t due = DIBS_FOREVER;
  for (const struct kept *job = self->jobs; job; job = job->next)
    if (job->due < due) due = job->due;
  return due;
}

/* Until something is due, or has changed. Under the mutex. */
static void keeper_sleep(KeeperObject *self, int64_t due) {
  if (due == DIBS_FOREVER) {
    pthread_cond_wait(&self->changed, &self->mutex);
    return;
  }
  struct timespec at = {.tv_sec = (time_t)(due / 1000),
                        .tv_nsec = (long)(due % 1000) * 1000000};
  pthread_cond_timedwait(&self->changed, &self->mutex, &at);
}

/* Copies of what is due, to be extended without the mutex. */
static size_t extensions_take(KeeperObject *self, dibs_settlement *settlements,
                              struct extension *extensions) {
  size_t count = 0;
  int64_t now = wait_clock();
  for (struct kept *job = self->jobs; job && count < TOGETHER;
       job = job->next) {
    if (job->due > now) continue;
    job->due = now + TRY_AGAIN;
    char *receipt = strdup(job->receipt);
    if (!receipt) continue;
    extensions[count] = (struct extension){job->number, receipt};
    settlements[count++] = (dibs_settlement){.receipt = receipt,
                                             .action = DIBS_EXTEND,
                                             .delay = DIBS_UNSET,
                                             .lease = job->lease};
  }
  return count;
}

static struct kept **job_find(KeeperObject *self, uint64_t number) {
  struct kept **at = &self->jobs;
  while (*at && (*at)->number != number) at = &(*at)->next;
  return at;
}

static void job_remove(struct kept **at) {
  struct kept *job = *at;
  if (!job) return;
  *at = job->next;
  free(job->receipt);
  free(job);
}

/* One that is lost needs no more: its holder hears of it when it settles. */
static void extension_apply(KeeperObject *self, uint64_t number, int status) {
  struct kept **at = job_find(self, number);
  if (!*at) return;
  if (status == DIBS_OK)
    (*at)->due = wait_clock() + (*at)->lease / 3;
  else if (status == DIBS_LOST)
    job_remove(at);
}

static int keeper_settle(KeeperObject *self, dibs_settlement *settlements,
                         size_t count) {
  if (!self->db && dibs_open(self->path, &self->options, &self->db)) {
    dibs_close(self->db);
    self->db = NULL;
    return DIBS_BUSY;
  }
  return dibs_settle(self->db, settlements, count);
}

static void keeper_extend(KeeperObject *self) {
  dibs_settlement settlements[TOGETHER];
  struct extension extensions[TOGETHER];
  size_t count = extensions_take(self, settlements, extensions);
  pthread_mutex_unlock(&self->mutex);
  int status = count ? keeper_settle(self, settlements, count) : DIBS_OK;
  pthread_mutex_lock(&self->mutex);
  for (size_t i = 0; i < count; i++) {
    extension_apply(self, extensions[i].number,
                    status ? status : settlements[i].status);
    free(extensions[i].receipt);
  }
}

static void *keeper_main(void *context) {
  KeeperObject *self = context;
  pthread_mutex_lock(&self->mutex);
  while (!self->closing) {
    int64_t due = jobs_due(self);
    if (due <= wait_clock())
      keeper_extend(self);
    else
      keeper_sleep(self, due);
  }
  pthread_mutex_unlock(&self->mutex);
  return NULL;
}

/* Signals are for the application's threads. */
static bool keeper_start(KeeperObject *self) {
  sigset_t all, before;
  if (self->started) return true;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  self->started = !pthread_create(&self->thread, NULL, keeper_main, self);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return self->started;
}

/* ----------------------------------------------------------------- methods */

static PyObject *keeper_add(PyObject *object, PyObject *arguments) {
  KeeperObject *self = (KeeperObject *)object;
  PyObject *receipt;
  const char *text;
  long long lease;
  if (!PyArg_ParseTuple(arguments, "OL", &receipt, &lease) ||
      !text_get(receipt, "receipt", &text))
    return NULL;
  if (self->pid != getpid() || self->closing || !text)
    return PyLong_FromLong(0);
  struct kept *job = calloc(1, sizeof *job);
  char *copy = strdup(text);
  if (!job || !copy || !keeper_start(self)) {
    free(job);
    free(copy);
    return PyErr_NoMemory();
  }
  job->receipt = copy;
  job->lease = lease;
  job->due = wait_clock() + lease / 3;
  pthread_mutex_lock(&self->mutex);
  bool first = job->due < jobs_due(self);
  job->number = ++self->numbers;
  job->next = self->jobs;
  self->jobs = job;
  if (first) pthread_cond_signal(&self->changed);
  uint64_t number = job->number;
  pthread_mutex_unlock(&self->mutex);
  return PyLong_FromUnsignedLongLong(number);
}

static PyObject *keeper_drop(PyObject *object, PyObject *number) {
  KeeperObject *self = (KeeperObject *)object;
  unsigned long long wanted = PyLong_AsUnsignedLongLong(number);
  if (PyErr_Occurred()) return NULL;
  if (self->pid == getpid()) {
    pthread_mutex_lock(&self->mutex);
    job_remove(job_find(self, wanted));
    pthread_mutex_unlock(&self->mutex);
  }
  Py_RETURN_NONE;
}

static void keeper_end(KeeperObject *self) {
  if (self->pid != getpid()) return;
  Py_BEGIN_ALLOW_THREADS pthread_mutex_lock(&self->mutex);
  self->closing = true;
  pthread_cond_signal(&self->changed);
  pthread_mutex_unlock(&self->mutex);
  if (self->started) pthread_join(self->thread, NULL);
  dibs_close(self->db);
  Py_END_ALLOW_THREADS self->started = false;
  self->db = NULL;
}

static PyObject *keeper_close(PyObject *object, PyObject *none) {
  (void)none;
  keeper_end((KeeperObject *)object);
  Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- the type */

static void keeper_init(KeeperObject *self) {
  pthread_condattr_t attributes;
  events_init(&self->events);
  pthread_mutex_init(&self->mutex, NULL);
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&self->changed, &attributes);
  pthread_condattr_destroy(&attributes);
  self->pid = getpid();
}

/* Keeper(path, settings, provider) */
static PyObject *keeper_new(PyTypeObject *type, PyObject *arguments,
                            PyObject *keywords) {
  PyObject *path, *settings, *provider;
  const char *text;
  if (keywords && PyDict_Size(keywords)) {
    PyErr_SetString(PyExc_TypeError, "Keeper() takes no keyword arguments");
    return NULL;
  }
  if (!PyArg_ParseTuple(arguments, "OO!O", &path, &PyDict_Type, &settings,
                        &provider) ||
      !text_get(path, "path", &text))
    return NULL;
  allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  KeeperObject *self = (KeeperObject *)make(type, 0);
  if (!self) return NULL;
  keeper_init(self);
  self->options = (dibs_open_options)DIBS_OPEN_OPTIONS_INIT;
  self->path = strdup(text ? text : "");
  self->keeps = Py_BuildValue("(OO)", settings, provider);
  if (self->path && self->keeps &&
      settings_get(&self->events, settings, provider, &self->options)) {
    self->options.log = NULL; /* nobody would hear it */
    return (PyObject *)self;
  }
  if (!PyErr_Occurred()) PyErr_NoMemory();
  Py_DECREF(self);
  return NULL;
}

static void keeper_free(PyObject *object) {
  KeeperObject *self = (KeeperObject *)object;
  PyTypeObject *type = Py_TYPE(object);
  keeper_end(self);
  while (self->jobs) job_remove(&self->jobs);
  free(self->path);
  if (self->pid == getpid()) {
    pthread_cond_destroy(&self->changed);
    pthread_mutex_destroy(&self->mutex);
    events_free(&self->events);
  }
  Py_CLEAR(self->keeps);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

static PyMethodDef keeper_methods[] = {
    {"add", keeper_add, METH_VARARGS,
     "add(receipt, lease): extend it from now on; a number."},
    {"drop", keeper_drop, METH_O, "drop(number): no more."},
    {"close", keeper_close, METH_NOARGS, "End the thread."},
    {NULL, NULL, 0, NULL}};

static PyType_Slot keeper_slots[] = {
    {Py_tp_doc, (void *)"Keeper(path, settings, provider): extends leases."},
    {Py_tp_new, (void *)keeper_new},
    {Py_tp_dealloc, (void *)keeper_free},
    {Py_tp_methods, keeper_methods},
    {0, NULL}};

static PyType_Spec keeper_spec = {"dibs._dibs.Keeper", sizeof(KeeperObject), 0,
                                  Py_TPFLAGS_DEFAULT, keeper_slots};

int keeper_add_type(PyObject *module) {
  keeper_type = type_add(module, &keeper_spec);
  return keeper_type ? 0 : -1;
}
