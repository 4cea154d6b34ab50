/* SPDX-License-Identifier: MIT */
/*
** engine.c: a dibs_engine as an object, and its runs.
**
** next() may be called by several threads. For an event loop there is a
** descriptor, which is readable when next(0) would give a job, when a run has a
** new flag, and when runs were settled: which, settled() tells. The core's
** threads do not wait for the GIL: what they tell is noted.
**
** A run ends with finish() or settle(); then its object no longer has one.
*/
#include "native.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static PyTypeObject *engine_type;
static PyTypeObject *run_type;

/* A run that was settled, and its outcome. */
struct outcome {
  struct outcome *next;
  uint64_t number;
  dibs_settlement settlement;
};

typedef struct EngineObject {
  PyObject ob_base;
  dibs_engine *engine; /* NULL: closed */
  PyObject *keeps;     /* settings and provider */
  int calls;           /* under way; under the GIL */
  bool interrupted;    /* by interrupt(); under the GIL */
  int descriptor;      /* -1: none */
  struct events events;
  pthread_mutex_t mutex;    /* for what follows */
  struct outcome *outcomes; /* newest first */
} EngineObject;

typedef struct RunObject {
  PyObject ob_base;
  dibs_run *run; /* NULL: it has ended */
  uint64_t number;
  PyObject *fields; /* of its job */
  int flags;        /* when it ended */
  char is_final;
} RunObject;

/* --------------------------------------------------------------- callbacks */

static void engine_poke(EngineObject *self) {
  if (self->descriptor >= 0) eventfd_write(self->descriptor, 1);
}

static void engine_ready(void *context) {
  engine_poke(context);
}

static void engine_settled(void *context, const dibs_run *run,
                           const dibs_settlement *settlement) {
  EngineObject *self = context;
  struct outcome *outcome = malloc(sizeof *outcome);
  if (outcome) {
    outcome->number = (uint64_t)(uintptr_t)run->context;
    outcome->settlement = *settlement;
    pthread_mutex_lock(&self->mutex);
    outcome->next = self->outcomes;
    self->outcomes = outcome;
    pthread_mutex_unlock(&self->mutex);
  }
  engine_poke(self);
}

static struct outcome *outcomes_take(EngineObject *self) {
  pthread_mutex_lock(&self->mutex);
  struct outcome *outcomes = self->outcomes;
  self->outcomes = NULL;
  pthread_mutex_unlock(&self->mutex);
  return outcomes;
}

/* ------------------------------------------------------------------- calls */

static bool engine_enter(EngineObject *self) {
  if (!self->engine) {
    error_raise(DIBS_CLOSED, "the engine is closed", 0, -1);
    return false;
  }
  self->calls++;
  return true;
}

static bool engine_leave(EngineObject *self, int status, const char *message) {
  self->calls--;
  if (status > 0 && status != DIBS_FORKED && (!message || !*message))
    message = dibs_engine_error(self->engine);
  if (status > 0) error_raise(status, message, 0, -1);
  events_tell(&self->events);
  return status == DIBS_OK;
}

static PyObject *run_make(dibs_run *run) {
  static uint64_t numbers; /* under the GIL */
  allocfunc make = (allocfunc)PyType_GetSlot(run_type, Py_tp_alloc);
  RunObject *self = (RunObject *)make(run_type, 0);
  if (!self) return NULL;
  self->run = run;
  self->number = ++numbers;
  self->is_final = (char)run->final;
  run->context = (void *)(uintptr_t)self->number;
  self->fields = job_object(run->job);
  if (self->fields) return (PyObject *)self;
  Py_DECREF(self);
  return NULL;
}

/* Without memory for the object the job is given back. */
static PyObject *run_object(EngineObject *self, dibs_run *run) {
  PyObject *object = run_make(run);
  dibs_settlement release = {.action = DIBS_RELEASE};
  if (!object) dibs_engine_finish(self->engine, run, &release);
  return object;
}

static int next_wait(EngineObject *self, int64_t timeout, dibs_run **run) {
  int status;
  int64_t begin = wait_clock(), left = timeout;
  int is_main = timeout > 0 ? thread_is_main() : 0;
  if (is_main < 0) return RAISED;
  for (;;) {
    if (PyErr_CheckSignals()) return RAISED;
    if (self->interrupted) return DIBS_INTERRUPTED;
    Py_BEGIN_ALLOW_THREADS if (is_main) signals_begin(NULL, self->engine);
    status = dibs_engine_next(self->engine, left, run);
    if (is_main) signals_end();
    Py_END_ALLOW_THREADS if (status != DIBS_INTERRUPTED) return status;
    left = wait_left(timeout, begin);
  }
}

static PyObject *engine_next(PyObject *object, PyObject *arguments) {
  EngineObject *self = (EngineObject *)object;
  long long timeout;
  dibs_run *run = NULL;
  if (!PyArg_ParseTuple(arguments, "L", &timeout) || !engine_enter(self))
    return NULL;
  int status = next_wait(self, timeout, &run);
  if (status == DIBS_CLOSED) {
    engine_leave(self, DIBS_OK, NULL);
    return error_raise(status, "the engine gives no more jobs", 0, -1);
  }
  if (!engine_leave(self, status == DIBS_EMPTY ? DIBS_OK : status, NULL))
    return NULL;
  if (!run) Py_RETURN_NONE;
  return run_object(self, run);
}

/* ----------------------------------------------------------------- settling */

/* (run, action, delay, error, result): the run is the object's no more. */
static bool run_take(PyObject *arguments, RunObject **object, dibs_run **run,
                     dibs_settlement *settlement) {
  PyObject *taken, *error, *result;
  long long delay;
  int action;
  *settlement = (dibs_settlement){.lease = DIBS_UNSET};
  if (!PyArg_ParseTuple(arguments, "O!iLOO", run_type, &taken, &action, &delay,
                        &error, &result) ||
      !text_get(error, "error", &settlement->error) ||
      (result != Py_None &&
       !payload_get(DIBS_PAYLOAD_JSON, result, &settlement->result)))
    return false;
  settlement->action = action;
  settlement->delay = delay;
  *object = (RunObject *)taken;
  *run = (*object)->run;
  if (!*run) {
    error_raise(DIBS_LOST, "the job has been settled already", 0, -1);
    return false;
  }
  (*object)->flags = dibs_run_flags(*run);
  (*object)->run = NULL;
  return true;
}

static PyObject *engine_finish(PyObject *object, PyObject *arguments) {
  EngineObject *self = (EngineObject *)object;
  RunObject *taken;
  dibs_run *run;
  dibs_settlement settlement;
  int status;
  if (!engine_enter(self)) return NULL;
  if (!run_take(arguments, &taken, &run, &settlement)) {
    self->calls--;
    return NULL;
  }
  CALL(status, dibs_engine_finish(self->engine, run, &settlement));
  if (status == DIBS_INVALID) taken->run = run; /* it goes on */
  if (!engine_leave(self, status, settlement.message)) return NULL;
  Py_RETURN_NONE;
}

static PyObject *engine_settle(PyObject *object, PyObject *arguments) {
  EngineObject *self = (EngineObject *)object;
  RunObject *taken;
  dibs_run *run;
  dibs_settlement settlement;
  int status;
  if (!engine_enter(self)) return NULL;
  if (!run_take(arguments, &taken, &run, &settlement)) {
    self->calls--;
    return NULL;
  }
  CALL(status, dibs_engine_settle(self->engine, run, &settlement));
  if (status == DIBS_INVALID) taken->run = run;
  if (!engine_leave(self, status, settlement.message)) return NULL;
  return Py_BuildValue("(NN)", text_object(dibs_state_name(settlement.state)),
                       number_object(settlement.until));
}

/* ---------------------------------------------------------- stop and close */

static PyObject *engine_stop(PyObject *object, PyObject *arguments) {
  EngineObject *self = (EngineObject *)object;
  long long grace;
  size_t released = 0;
  int status;
  if (!PyArg_ParseTuple(arguments, "L", &grace) || !engine_enter(self))
    return NULL;
  CALL(status, dibs_engine_stop(self->engine, grace, &released));
  if (!engine_leave(self, status, NULL)) return NULL;
  return PyLong_FromSize_t(released);
}

static PyObject *engine_stop_begin(PyObject *object, PyObject *none) {
  EngineObject *self = (EngineObject *)object;
  (void)none;
  if (!engine_enter(self)) return NULL;
  Py_BEGIN_ALLOW_THREADS dibs_engine_stop_begin(self->engine);
  Py_END_ALLOW_THREADS engine_leave(self, DIBS_OK, NULL);
  Py_RETURN_NONE;
}

static PyObject *engine_interrupt(PyObject *object, PyObject *none) {
  EngineObject *self = (EngineObject *)object;
  (void)none;
  if (!engine_enter(self)) return NULL;
  self->interrupted = true;
  Py_BEGIN_ALLOW_THREADS dibs_engine_interrupt(self->engine);
  Py_END_ALLOW_THREADS engine_leave(self, DIBS_OK, NULL);
  Py_RETURN_NONE;
}

static PyObject *engine_close(PyObject *object, PyObject *none) {
  EngineObject *self = (EngineObject *)object;
  int status;
  (void)none;
  if (!self->engine) Py_RETURN_NONE;
  if (self->calls)
    return error_raise(DIBS_MISUSE,
                       "the engine was to be closed while another thread is "
                       "in a call: stop it and join the thread first",
                       0, -1);
  dibs_engine *engine = self->engine;
  self->engine = NULL;
  CALL(status, dibs_engine_close(engine));
  events_tell(&self->events);
  if (status) return error_raise(status, NULL, 0, -1);
  Py_RETURN_NONE;
}

/* -------------------------------------------------------------- event loops */

static PyObject *engine_descriptor(PyObject *object, PyObject *none) {
  (void)none;
  return PyLong_FromLong(((EngineObject *)object)->descriptor);
}

/* Empty the descriptor, and tell what was settled: (number, status, state,
** message), oldest first. */
static PyObject *engine_drain(PyObject *object, PyObject *none) {
  EngineObject *self = (EngineObject *)object;
  eventfd_t count;
  (void)none;
  if (self->descriptor >= 0) eventfd_read(self->descriptor, &count);
  PyObject *list = PyList_New(0);
  for (struct outcome *each = outcomes_take(self), *next; each; each = next) {
    const dibs_settlement *settlement = &each->settlement;
    next = each->next;
    PyObject *told =
        list ? Py_BuildValue("(KiNN)", (unsigned long long)each->number,
                             settlement->status,
                             text_object(dibs_state_name(settlement->state)),
                             text_object(settlement->message))
             : NULL;
    if (list && (!told || PyList_Append(list, told))) Py_CLEAR(list);
    Py_XDECREF(told);
    free(each);
  }
  events_tell(&self->events);
  if (list && PyList_Reverse(list)) Py_CLEAR(list);
  return list;
}

/* ----------------------------------------------------------------- opening */

static int64_t option_number(PyObject *options, const char *name) {
  PyObject *value = PyDict_GetItemString(options, name);
  return value && value != Py_None ? PyLong_AsLongLong(value) : DIBS_UNSET;
}

static bool options_get(EngineObject *self, PyObject *given,
                        const struct names *queues,
                        dibs_engine_options *options) {
  options->queues = queues->items;
  options->queue_count = queues->count;
  options->slots = option_number(given, "slots");
  options->lease = option_number(given, "lease");
  options->max_jobs = option_number(given, "max_jobs");
  options->in_order = option_number(given, "in_order") > 0;
  options->drain = option_number(given, "drain") > 0;
  bool evented = option_number(given, "events") > 0;
  if (PyErr_Occurred() || !text_get(PyDict_GetItemString(given, "worker"),
                                    "worker", &options->worker))
    return false;
  options->context = self;
  if (!evented) return true;
  options->ready = engine_ready;
  options->flagged = engine_ready;
  options->settled = engine_settled;
  self->descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (self->descriptor >= 0) return true;
  PyErr_SetFromErrno(PyExc_OSError);
  return false;
}

static bool engine_open(EngineObject *self, const char *path,
                        PyObject *settings, PyObject *provider,
                        PyObject *given) {
  dibs_open_options open_options = DIBS_OPEN_OPTIONS_INIT;
  dibs_engine_options options = DIBS_ENGINE_OPTIONS_INIT;
  PyObject *queues = PyDict_GetItemString(given, "queues");
  struct names names;
  int status = RAISED;
  if (!queues) {
    PyErr_SetString(PyExc_TypeError, "the options of an engine have queues");
    return false;
  }
  self->keeps = Py_BuildValue("(OO)", settings, provider);
  if (!self->keeps || !names_get(queues, "queue", &names)) return false;
  if (settings_get(&self->events, settings, provider, &open_options) &&
      options_get(self, given, &names, &options))
    CALL(status,
         dibs_engine_open(path, &open_options, &options, &self->engine));
  names_free(&names);
  if (status > 0)
    error_raise(status, self->engine ? dibs_engine_error(self->engine) : NULL,
                0, -1);
  return status == DIBS_OK;
}

/* Engine(path, settings, provider, options) */
static PyObject *engine_new(PyTypeObject *type, PyObject *arguments,
                            PyObject *keywords) {
  PyObject *path, *settings, *provider, *options;
  const char *text;
  if (keywords && PyDict_Size(keywords)) {
    PyErr_SetString(PyExc_TypeError, "Engine() takes no keyword arguments");
    return NULL;
  }
  if (!PyArg_ParseTuple(arguments, "OO!OO!", &path, &PyDict_Type, &settings,
                        &provider, &PyDict_Type, &options) ||
      !text_get(path, "path", &text))
    return NULL;
  allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  EngineObject *self = (EngineObject *)make(type, 0);
  if (!self) return NULL;
  self->descriptor = -1;
  events_init(&self->events);
  pthread_mutex_init(&self->mutex, NULL);
  if (engine_open(self, text, settings, provider, options))
    return (PyObject *)self;
  Py_DECREF(self);
  return NULL;
}

static void engine_free(PyObject *object) {
  EngineObject *self = (EngineObject *)object;
  PyTypeObject *type = Py_TYPE(object);
  dibs_engine *engine = self->engine;
  self->engine = NULL;
  if (engine) {
    Py_BEGIN_ALLOW_THREADS dibs_engine_close(engine);
    Py_END_ALLOW_THREADS
  }
  for (struct outcome *each = outcomes_take(self), *next; each; each = next) {
    next = each->next;
    free(each);
  }
  if (self->descriptor >= 0) close(self->descriptor);
  pthread_mutex_destroy(&self->mutex);
  events_free(&self->events);
  Py_CLEAR(self->keeps);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

static PyMethodDef engine_methods[] = {
    {"next", engine_next, METH_VARARGS,
     "next(timeout): a Run; None when none came; ClosedError: none will."},
    {"finish", engine_finish, METH_VARARGS,
     "finish(run, action, delay, error, result): it is settled soon."},
    {"settle", engine_settle, METH_VARARGS,
     "settle(run, action, delay, error, result): (state, until), on disk."},
    {"stop", engine_stop, METH_VARARGS,
     "stop(grace): how many were given back unfinished."},
    {"stop_begin", engine_stop_begin, METH_NOARGS, "Claim no more."},
    {"interrupt", engine_interrupt, METH_NOARGS,
     "Make next() raise InterruptedError from now on."},
    {"close", engine_close, METH_NOARGS, "Close it; harmless when it is."},
    {"fileno", engine_descriptor, METH_NOARGS, "For event loops; or -1."},
    {"settled", engine_drain, METH_NOARGS,
     "settled(): [(number, status, state, message)] since the last call."},
    {NULL, NULL, 0, NULL}};

static PyType_Slot engine_slots[] = {
    {Py_tp_doc, (void *)"Engine(path, settings, provider, options)"},
    {Py_tp_new, (void *)engine_new},
    {Py_tp_dealloc, (void *)engine_free},
    {Py_tp_methods, engine_methods},
    {0, NULL}};

static PyType_Spec engine_spec = {"dibs._dibs.Engine", sizeof(EngineObject), 0,
                                  Py_TPFLAGS_DEFAULT, engine_slots};

/* -------------------------------------------------------------------- runs */

static PyObject *run_fields(PyObject *object, void *closure) {
  RunObject *self = (RunObject *)object;
  (void)closure;
  return Py_NewRef(self->fields);
}

static PyObject *run_flags(PyObject *object, void *closure) {
  RunObject *self = (RunObject *)object;
  (void)closure;
  return PyLong_FromLong(self->run ? dibs_run_flags(self->run) : self->flags);
}

static PyObject *run_number(PyObject *object, void *closure) {
  (void)closure;
  return PyLong_FromUnsignedLongLong(((RunObject *)object)->number);
}

static PyObject *run_is_final(PyObject *object, void *closure) {
  (void)closure;
  return PyBool_FromLong(((RunObject *)object)->is_final);
}

static PyObject *run_ended(PyObject *object, void *closure) {
  (void)closure;
  return PyBool_FromLong(!((RunObject *)object)->run);
}

static PyGetSetDef run_members[] = {
    {"fields", run_fields, NULL, "Of its job: see JOB_FIELDS.", NULL},
    {"flags", run_flags, NULL,
     "1 lost, 2 cancelled, 4 out of time, 8 the engine stops.", NULL},
    {"number", run_number, NULL, "As settled() gives it.", NULL},
    {"final", run_is_final, NULL, "Whether it is its last attempt.", NULL},
    {"ended", run_ended, NULL, "Whether it was finished.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static void run_free(PyObject *object) {
  PyTypeObject *type = Py_TYPE(object);
  Py_CLEAR(((RunObject *)object)->fields);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

static PyType_Slot run_slots[] = {
    {Py_tp_doc, (void *)"A job that an engine has claimed."},
    {Py_tp_getset, run_members},
    {Py_tp_dealloc, (void *)run_free},
    {0, NULL}};

static PyType_Spec run_spec = {"dibs._dibs.Run", sizeof(RunObject), 0,
                               Py_TPFLAGS_DEFAULT, run_slots};

int engine_add(PyObject *module) {
  engine_type = type_add(module, &engine_spec);
  run_type = engine_type ? type_add(module, &run_spec) : NULL;
  return run_type
             ? PyObject_SetAttrString((PyObject *)run_type, "__new__", Py_None)
             : -1;
}
