/* SPDX-License-Identifier: MIT */
/*
** watch.c: a dibs_watch as an object, for event loops: its descriptor is readable
** when something may be claimed. And enqueues that are begun, and tell by a
** descriptor when they are committed.
*/
#include "native.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static PyTypeObject *watch_type;

typedef struct WatchObject {
  PyObject ob_base;
  dibs_watch *watch; /* NULL: closed */
  PyObject *keeps;
  struct events events;
} WatchObject;

static PyObject *watch_descriptor(PyObject *object, PyObject *none) {
  WatchObject *self = (WatchObject *)object;
  (void)none;
  return PyLong_FromLong(self->watch ? dibs_watch_descriptor(self->watch) : -1);
}

static PyObject *watch_arm(PyObject *object, PyObject *none) {
  WatchObject *self = (WatchObject *)object;
  int status;
  (void)none;
  if (!self->watch)
    return error_raise(DIBS_CLOSED, "the watch is closed", 0, -1);
  CALL(status, dibs_watch_arm(self->watch));
  events_tell(&self->events);
  if (status)
    return error_raise(
        status, status == DIBS_FORKED ? NULL : dibs_watch_error(self->watch), 0,
        -1);
  Py_RETURN_NONE;
}

static PyObject *watch_close(PyObject *object, PyObject *none) {
  WatchObject *self = (WatchObject *)object;
  dibs_watch *watch = self->watch;
  int status;
  (void)none;
  self->watch = NULL;
  if (!watch) Py_RETURN_NONE;
  CALL(status, dibs_watch_close(watch));
  events_tell(&self->events);
  if (status) return error_raise(status, NULL, 0, -1);
  Py_RETURN_NONE;
}

/* Watch(path, settings, provider, queues) */
static PyObject *watch_new(PyTypeObject *type, PyObject *arguments,
                           PyObject *keywords) {
  PyObject *path, *settings, *provider, *queues;
  dibs_open_options open_options = DIBS_OPEN_OPTIONS_INIT;
  dibs_watch_options options = DIBS_WATCH_OPTIONS_INIT;
  struct names names;
  const char *text;
  int status;
  if (keywords && PyDict_Size(keywords)) {
    PyErr_SetString(PyExc_TypeError, "Watch() takes no keyword arguments");
    return NULL;
  }
  if (!PyArg_ParseTuple(arguments, "OO!OO", &path, &PyDict_Type, &settings,
                        &provider, &queues) ||
      !text_get(path, "path", &text))
    return NULL;
  allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
  WatchObject *self = (WatchObject *)make(type, 0);
  if (!self) return NULL;
  events_init(&self->events);
  self->keeps = Py_BuildValue("(OO)", settings, provider);
  options.descriptor = 1;
  if (!self->keeps ||
      !settings_get(&self->events, settings, provider, &open_options) ||
      !names_get(queues, "queue", &names)) {
    Py_DECREF(self);
    return NULL;
  }
  CALL(status, dibs_watch_open(text, &open_options, names.items, names.count,
                               &options, &self->watch));
  names_free(&names);
  if (!status) return (PyObject *)self;
  error_raise(status, dibs_watch_error(self->watch), 0, -1);
  Py_DECREF(self);
  return NULL;
}

static void watch_free(PyObject *object) {
  WatchObject *self = (WatchObject *)object;
  PyTypeObject *type = Py_TYPE(object);
  dibs_watch *watch = self->watch;
  self->watch = NULL;
  if (watch) {
    Py_BEGIN_ALLOW_THREADS dibs_watch_close(watch);
    Py_END_ALLOW_THREADS
  }
  events_free(&self->events);
  Py_CLEAR(self->keeps);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
  Py_DECREF(type);
}

static PyMethodDef watch_methods[] = {
    {"fileno", watch_descriptor, METH_NOARGS,
     "Readable when something may be claimed; -1 when closed."},
    {"arm", watch_arm, METH_NOARGS,
     "Tell again, at once if there is something."},
    {"close", watch_close, METH_NOARGS, "Close it; harmless when it is."},
    {NULL, NULL, 0, NULL}};

static PyType_Slot watch_slots[] = {
    {Py_tp_doc, (void *)"Watch(path, settings, provider, queues)"},
    {Py_tp_new, (void *)watch_new},
    {Py_tp_dealloc, (void *)watch_free},
    {Py_tp_methods, watch_methods},
    {0, NULL}};

static PyType_Spec watch_spec = {"dibs._dibs.Watch", sizeof(WatchObject), 0,
                                 Py_TPFLAGS_DEFAULT, watch_slots};

int watch_add(PyObject *module) {
  watch_type = type_add(module, &watch_spec);
  return watch_type ? 0 : -1;
}
