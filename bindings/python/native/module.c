/* SPDX-License-Identifier: MIT */
/*
** module.c: the extension module _dibs, its errors, and a clock for tests.
**
** The error classes are the package's, dibs._errors, one for each status. The
** module is for the main interpreter: signals, the core's own threads and the
** static data of this module know one interpreter. Another one gets an
** ImportError.
*/
#include "native.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static PyObject *error_classes;  /* status: class */
static PyObject *event_receiver; /* called with each event; NULL: none */

/* ------------------------------------------------------------------ errors */

PyObject *error_raise(int status, const char *message, int64_t id,
                      int64_t index) {
  PyObject *key = PyLong_FromLong(status);
  PyObject *class = key ? PyDict_GetItemWithError(error_classes, key) : NULL;
  Py_XDECREF(key);
  if (!class) {
    if (!PyErr_Occurred())
      PyErr_Format(PyExc_SystemError, "unknown status %d", status);
    return NULL;
  }
  if (!message || !*message) message = dibs_status_meaning(status);
  PyObject *error = PyObject_CallFunction(class, "s", message);
  PyObject *number = id ? PyLong_FromLongLong(id) : NULL;
  PyObject *place = index >= 0 ? PyLong_FromLongLong(index) : NULL;
  if (error && !(number && PyObject_SetAttrString(error, "id", number)) &&
      !(place && PyObject_SetAttrString(error, "index", place)) &&
      !PyErr_Occurred())
    PyErr_SetObject(class, error);
  Py_XDECREF(number);
  Py_XDECREF(place);
  Py_XDECREF(error);
  return NULL;
}

PyObject *error_invalid(const char *format, ...) {
  char message[240];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return error_raise(DIBS_INVALID, message, 0, -1);
}

void event_tell(PyObject *event) {
  PyObject *type, *value, *trace;
  if (!event_receiver || !event) {
    PyErr_Clear();
    return;
  }
  PyErr_Fetch(&type, &value, &trace);
  PyObject *result = PyObject_CallFunctionObjArgs(event_receiver, event, NULL);
  if (!result) PyErr_WriteUnraisable(event_receiver);
  Py_XDECREF(result);
  PyErr_Restore(type, value, trace);
}

/* ------------------------------------------------------------------- clock */

PyTypeObject *clock_type;

int64_t clock_now(void *clock) {
  return __atomic_load_n(&((ClockObject *)clock)->now, __ATOMIC_SEQ_CST);
}

static PyObject *clock_get(PyObject *self, void *closure) {
  (void)closure;
  return PyLong_FromLongLong(clock_now(self));
}

static int clock_set(PyObject *self, PyObject *value, void *closure) {
  (void)closure;
  if (!value) {
    PyErr_SetString(PyExc_AttributeError, "now cannot be deleted");
    return -1;
  }
  int64_t now = PyLong_AsLongLong(value);
  if (now == -1 && PyErr_Occurred()) return -1;
  __atomic_store_n(&((ClockObject *)self)->now, now, __ATOMIC_SEQ_CST);
  return 0;
}

static PyGetSetDef clock_members[] = {
    {"now", clock_get, clock_set, "Milliseconds since 1970.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static void object_free(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  release(self);
  Py_DECREF(type);
}

static PyType_Slot clock_slots[] = {
    {Py_tp_doc, (void *)"A clock that stands until it is set."},
    {Py_tp_getset, clock_members},
    {Py_tp_dealloc, (void *)object_free},
    {0, NULL}};

static PyType_Spec clock_spec = {"dibs._dibs.Clock", sizeof(ClockObject), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
                                 clock_slots};

int clock_add(PyObject *module) {
  clock_type = type_add(module, &clock_spec);
  return clock_type ? 0 : -1;
}

/* ------------------------------------------------------------------ module */

PyTypeObject *type_add(PyObject *module, PyType_Spec *spec) {
  PyObject *type = PyType_FromSpec(spec);
  if (!type) return NULL;
  Py_INCREF(type);
  if (PyModule_AddObject(module, strrchr(spec->name, '.') + 1, type)) {
    Py_DECREF(type);
    Py_DECREF(type);
    return NULL;
  }
  return (PyTypeObject *)type; /* our own reference, for good */
}

static PyObject *module_set_receiver(PyObject *module, PyObject *receiver) {
  (void)module;
  PyObject *old = event_receiver;
  Py_INCREF(receiver);
  event_receiver = receiver;
  Py_XDECREF(old);
  Py_RETURN_NONE;
}

static PyObject *module_statuses(PyObject *module, PyObject *none) {
  (void)module;
  (void)none;
  PyObject *names = PyDict_New();
  for (int status = 0; names && dibs_status_name(status); status++) {
    PyObject *pair = Py_BuildValue("(ss)", dibs_status_name(status),
                                   dibs_status_meaning(status));
    PyObject *key = PyLong_FromLong(status);
    if (!pair || !key || PyDict_SetItem(names, key, pair)) Py_CLEAR(names);
    Py_XDECREF(pair);
    Py_XDECREF(key);
  }
  return names;
}

static PyMethodDef module_methods[] = {
    {"set_event_receiver", module_set_receiver, METH_O,
     "Call this with each event of a handle."},
    {"statuses", module_statuses, METH_NOARGS,
     "The name and the meaning of each status, by its number."},
    {NULL, NULL, 0, NULL}};

static int job_fields_add(PyObject *module) {
  Py_ssize_t count = 0;
  while (job_fields[count]) count++;
  PyObject *fields = PyTuple_New(count);
  for (Py_ssize_t i = 0; fields && i < count; i++) {
    PyObject *name = PyUnicode_FromString(job_fields[i]);
    if (!name || PyTuple_SetItem(fields, i, name)) Py_CLEAR(fields);
  }
  if (fields && !PyModule_AddObject(module, "JOB_FIELDS", fields)) return 0;
  Py_XDECREF(fields);
  return -1;
}

static int number_add(PyObject *module, const char *name, int64_t value) {
  PyObject *number = PyLong_FromLongLong(value);
  if (number && !PyModule_AddObject(module, name, number)) return 0;
  Py_XDECREF(number);
  return -1;
}

static int is_main_interpreter(void) {
  return PyInterpreterState_GetID(PyInterpreterState_Get()) == 0;
}

static int module_exec(PyObject *module) {
  if (!is_main_interpreter()) {
    PyErr_SetString(PyExc_ImportError,
                    "dibs cannot be used in a subinterpreter: import it in the "
                    "main one, or use processes");
    return -1;
  }
  PyObject *errors = PyImport_ImportModule("dibs._errors");
  if (!errors) return -1;
  PyObject *classes = PyObject_GetAttrString(errors, "BY_STATUS");
  Py_DECREF(errors);
  if (!classes) return -1;
  Py_XDECREF(error_classes);
  error_classes = classes;
  return clock_add(module) || library_add(module) || handle_add(module) ||
                 engine_add(module) || watch_add(module) ||
                 keeper_add_type(module) || job_fields_add(module) ||
                 PyModule_AddStringConstant(module, "VERSION",
                                            dibs_version()) ||
                 number_add(module, "UNSET", DIBS_UNSET) ||
                 number_add(module, "FOREVER", DIBS_FOREVER)
             ? -1
             : 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, (void *)module_exec},
                                          {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "_dibs",
    "The core of dibs. Not for use by applications: import dibs.",
    0,
    module_methods,
    module_slots,
    NULL,
    NULL,
    NULL};

PyMODINIT_FUNC PyInit__dibs(void) {
  return PyModuleDef_Init(&definition);
}
