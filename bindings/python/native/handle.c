/* SPDX-License-Identifier: MIT */
/*
** handle.c: a dibs_db as an object, and the frame of its methods.
*/
#include "native.h"

PyTypeObject *handle_type;

/* ------------------------------------------------------------------- calls */

bool call_enter(HandleObject *self) {
  if (!self->db) {
    error_raise(DIBS_CLOSED, "the database is closed", 0, -1);
    return false;
  }
  self->calls++;
  return true;
}

bool call_leave(HandleObject *self, int status) {
  self->calls--;
  if (status == RAISED) {
    events_tell(&self->events);
    return false;
  }
  if (status == DIBS_FORKED)
    error_raise(status,
                "the database was opened before a fork: open it again in the "
                "child",
                0, -1);
  else if (status)
    error_raise(status,
                dibs_error_status(self->db) == status ? dibs_error(self->db)
                                                      : NULL,
                dibs_error_id(self->db), dibs_error_index(self->db));
  events_tell(&self->events);
  return !status;
}

/* ------------------------------------------------------------------- waits */

int call_wait(HandleObject *self, int64_t timeout,
              int (*run)(HandleObject *self, int64_t timeout, void *context),
              void *context) {
  int status;
  int64_t begin = wait_clock(), left = timeout;
  int is_main = thread_is_main();
  if (is_main < 0) return RAISED;
  for (;;) {
    if (PyErr_CheckSignals()) return RAISED;
    if (self->interrupted) return DIBS_INTERRUPTED;
    Py_BEGIN_ALLOW_THREADS if (is_main) signals_begin(self->db, NULL);
    status = run(self, left, context);
    if (is_main) signals_end();
    Py_END_ALLOW_THREADS if (status != DIBS_INTERRUPTED) return status;
    left = wait_left(timeout, begin);
  }
}

PyObject *handle_interrupt(PyObject *object, PyObject *none) {
  HandleObject *self = (HandleObject *)object;
  (void)none;
  self->interrupted = true;
  if (self->db) dibs_interrupt(self->db);
  Py_RETURN_NONE;
}

PyObject *handle_arm(PyObject *object, PyObject *none) {
  (void)none;
  ((HandleObject *)object)->interrupted = false;
  Py_RETURN_NONE;
}

/* ----------------------------------------------------------------- opening */

static int64_t setting_number(PyObject *settings, const char *name,
                              int64_t unset) {
  PyObject *value = PyDict_GetItemString(settings, name);
  return value && value != Py_None ? PyLong_AsLongLong(value) : unset;
}

/* The clock and the provider live as long as what keeps them. */
bool settings_get(struct events *events, PyObject *settings, PyObject *provider,
                  dibs_open_options *options) {
  if (!PyObject_TypeCheck(provider, provider_type)) {
    PyErr_SetString(PyExc_TypeError, "a Provider is wanted");
    return false;
  }
  options->provider = ((ProviderObject *)provider)->provider;
  options->create = (int)setting_number(settings, "create", DIBS_CREATE);
  options->synchronous =
      (int)setting_number(settings, "synchronous", DIBS_SYNCHRONOUS_FULL);
  options->keep_journal_mode =
      (int)setting_number(settings, "keep_journal_mode", 0);
  options->wake = (int)setting_number(settings, "wake", DIBS_WAKE_AUTO);
  options->busy_timeout = setting_number(settings, "busy_timeout", DIBS_UNSET);
  options->max_payload = setting_number(settings, "max_payload", DIBS_UNSET);
  options->two_libraries = (int)setting_number(settings, "two_libraries", 0);
  if (PyErr_Occurred()) return false;
  PyObject *clock = PyDict_GetItemString(settings, "clock");
  if (clock && clock != Py_None) {
    if (!PyObject_TypeCheck(clock, clock_type)) {
      PyErr_SetString(PyExc_TypeError, "clock: a Clock is wanted");
      return false;
    }
    options->clock = clock_now;
    options->clock_context = clock;
  }
  options->log = event_note;
  options->log_context = events;
  return true;
}

static HandleObject *handle_make(PyTypeObject *type) {
  allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  HandleObject *self = (HandleObject *)make(type, 0);
  if (self) events_init(&self->events);
  return self;
}

/* The handle, or the error of opening it. */
static PyObject *handle_opened(HandleObject *self, int status) {
  if (!status) {
    events_tell(&self->events);
    return (PyObject *)self;
  }
  error_raise(status, dibs_error(self->db), 0, -1);
  Py_DECREF(self);
  return NULL;
}

/* Handle(path, settings, provider) */
static PyObject *handle_new(PyTypeObject *type, PyObject *arguments,
                            PyObject *keywords) {
  PyObject *path, *settings, *provider;
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  const char *text;
  int status;
  if (keywords && PyDict_Size(keywords)) {
    PyErr_SetString(PyExc_TypeError, "Handle() takes no keyword arguments");
    return NULL;
  }
  if (!PyArg_ParseTuple(arguments, "OO!O", &path, &PyDict_Type, &settings,
                        &provider) ||
      !text_get(path, "path", &text))
    return NULL;
  HandleObject *self = handle_make(type);
  if (!self) return NULL;
  self->keeps = Py_BuildValue("(OO)", settings, provider);
  if (!self->keeps ||
      !settings_get(&self->events, settings, provider, &options)) {
    Py_DECREF(self);
    return NULL;
  }
  CALL(status, dibs_open(text, &options, &self->db));
  return handle_opened(self, status);
}

/* attach(address, connection, settings, provider) */
PyObject *handle_attach(PyObject *type, PyObject *arguments) {
  PyObject *address, *connection, *settings, *provider;
  dibs_open_options options = DIBS_OPEN_OPTIONS_INIT;
  int status;
  if (!PyArg_ParseTuple(arguments, "OOO!O", &address, &connection, &PyDict_Type,
                        &settings, &provider))
    return NULL;
  struct sqlite3 *pointer = connection_pointer(address);
  HandleObject *self = pointer ? handle_make((PyTypeObject *)type) : NULL;
  if (!self) return NULL;
  self->keeps = Py_BuildValue("(OOO)", settings, provider, connection);
  if (!self->keeps ||
      !settings_get(&self->events, settings, provider, &options)) {
    Py_DECREF(self);
    return NULL;
  }
  CALL(status, dibs_attach(pointer, options.provider, &options, &self->db));
  return handle_opened(self, status);
}

PyObject *handle_close(PyObject *object, PyObject *none) {
  HandleObject *self = (HandleObject *)object;
  int status;
  (void)none;
  if (!self->db) Py_RETURN_NONE;
  if (self->calls)
    return error_raise(DIBS_MISUSE,
                       "a handle was to be closed while another thread is in "
                       "a call",
                       0, -1);
  dibs_db *db = self->db;
  self->db = NULL;
  CALL(status, dibs_close(db));
  events_tell(&self->events);
  if (status == DIBS_FORKED)
    return error_raise(status,
                       "the database was opened before a fork: its parent "
                       "closes it",
                       0, -1);
  if (status) return error_raise(status, NULL, 0, -1);
  Py_RETURN_NONE;
}

static void handle_free(PyObject *object) {
  HandleObject *self = (HandleObject *)object;
  PyTypeObject *type = Py_TYPE(object);
  dibs_db *db = self->db;
  self->db = NULL;
  if (db) {
    Py_BEGIN_ALLOW_THREADS dibs_close(db);
    Py_END_ALLOW_THREADS
  }
  events_free(&self->events);
  Py_CLEAR(self->keeps);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

/* ---------------------------------------------------------------- the type */

static PyObject *handle_closed(PyObject *object, void *closure) {
  (void)closure;
  return PyBool_FromLong(!((HandleObject *)object)->db);
}

static PyGetSetDef handle_members[] = {
    {"closed", handle_closed, NULL, "Whether it is closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, (void *)"Handle(path, settings, provider): a connection."},
    {Py_tp_new, (void *)handle_new},
    {Py_tp_dealloc, (void *)handle_free},
    {Py_tp_getset, handle_members},
    {Py_tp_methods, operations},
    {0, NULL}};

static PyType_Spec handle_spec = {"dibs._dibs.Handle", sizeof(HandleObject), 0,
                                  Py_TPFLAGS_DEFAULT, handle_slots};

int handle_add(PyObject *module) {
  handle_type = type_add(module, &handle_spec);
  return handle_type ? 0 : -1;
}
