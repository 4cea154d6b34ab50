/* SPDX-License-Identifier: MIT */
/*
** library.c: the SQLite libraries that are in the process already. dibs brings
** none: it asks the one that a Python module uses for its API table, which
** SQLite gives to extensions only. Two ways lead there:
**
** - sqlite3_auto_extension(), found by dlsym() in the module's shared object,
**   and then a connection that the module itself opens, so that it is certainly
**   its library that answers. Works on builds that cannot load extensions, and
**   where the module is a part of the interpreter.
** - load_extension() of this very file, whose entry point is below. The way for
**   a module that keeps SQLite's functions to itself (APSW's wheels).
**
** Either way SQLite calls an entry point, which notes for its thread what it was
** given, and Python asks for that by seen().
**
** A sqlite3.Connection begins, behind the head of every object, with its
** sqlite3 *, in all versions of CPython and in packages that copy its module.
** That is not taken on trust: what is there is read without a risk, and has to
** begin with a pointer to one of the library's own VFSs, as every sqlite3 does.
*/
#include "native.h"

#include <dlfcn.h>
#include <errno.h>
#include <sqlite3ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

PyTypeObject *provider_type;

/* What an entry point was given last in this thread. */
static _Thread_local struct {
  sqlite3 *connection;
  const struct sqlite3_api_routines *api;
} seen;

/* ------------------------------------------------------------ entry points */

static void seen_note(sqlite3 *connection,
                      const struct sqlite3_api_routines *api) {
  seen.connection = connection;
  seen.api = api;
}

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
int sqlite3_dibs_init(sqlite3 *connection, char **message,
                      const struct sqlite3_api_routines *api);

/* Of load_extension(). */
int sqlite3_dibs_init(sqlite3 *connection, char **message,
                      const struct sqlite3_api_routines *api) {
  seen_note(connection, api);
  return dibs_extension_init(connection, message, api);
}

/* Of sqlite3_auto_extension(). An error would keep the host from opening
** connections, so there is none: then the connection lacks our functions. */
static int automatic_entry(sqlite3 *connection, char **message,
                           const struct sqlite3_api_routines *api) {
  (void)message;
  seen_note(connection, api);
  dibs_extension_init(connection, NULL, api);
  return SQLITE_OK;
}

/* --------------------------------------------------------------- providers */

static void provider_free(PyObject *self) {
  PyTypeObject *type = Py_TYPE(self);
  ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

static PyObject *provider_version(PyObject *self, void *closure) {
  (void)closure;
  return text_object(((ProviderObject *)self)->api->libversion());
}

static PyObject *provider_address(PyObject *self, void *closure) {
  (void)closure;
  return PyLong_FromVoidPtr((void *)(uintptr_t)((ProviderObject *)self)->api);
}

static PyGetSetDef provider_members[] = {
    {"sqlite_version", provider_version, NULL, "As \"3.40.1\".", NULL},
    {"address", provider_address, NULL, "Of its API table.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyObject *provider_make(const struct sqlite3_api_routines *api) {
  char message[DIBS_MESSAGE_SIZE];
  const dibs_provider *provider;
  int status = dibs_provider_get(api, &provider, message);
  if (status) return error_raise(status, message, 0, -1);
  allocfunc make = (allocfunc)PyType_GetSlot(provider_type, Py_tp_alloc);
  ProviderObject *self = (ProviderObject *)make(provider_type, 0);
  if (!self) return NULL;
  self->provider = provider;
  self->api = api;
  return (PyObject *)self;
}

static PyObject *library_seen(PyObject *module, PyObject *none) {
  (void)module;
  (void)none;
  if (!seen.api) Py_RETURN_NONE;
  PyObject *provider = provider_make(seen.api);
  PyObject *connection = PyLong_FromVoidPtr(seen.connection);
  seen_note(NULL, NULL);
  PyObject *pair = NULL;
  if (provider && connection) pair = PyTuple_Pack(2, provider, connection);
  Py_XDECREF(provider);
  Py_XDECREF(connection);
  return pair;
}

/* -------------------------------------------------------------- automatic */

typedef int automatic_function(void (*entry)(void));

/* dlsym() gives an object pointer, which ISO C does not let one cast. */
static automatic_function *symbol_find(const char *path, const char *name) {
  automatic_function *function = NULL;
  void *image = dlopen(path, path ? RTLD_LAZY | RTLD_NOLOAD : RTLD_LAZY);
  if (!image) return NULL;
  void *symbol = dlsym(image, name);
  memcpy(&function, &symbol, sizeof function);
  dlclose(image); /* the module itself stays loaded */
  return function;
}

static void (*automatic_pointer(void))(void) {
  return (void (*)(void))automatic_entry;
}

static PyObject *library_automatic(PyObject *module, PyObject *arguments) {
  PyObject *path;
  int on;
  const char *file = NULL;
  (void)module;
  if (!PyArg_ParseTuple(arguments, "Op", &path, &on)) return NULL;
  if (!text_get(path, "path", &file)) return NULL;
  automatic_function *function = symbol_find(
      file, on ? "sqlite3_auto_extension" : "sqlite3_cancel_auto_extension");
  if (!function) Py_RETURN_FALSE;
  function(automatic_pointer());
  Py_RETURN_TRUE;
}

/* For a library whose table there is, but not its symbols. */
static PyObject *library_install(PyObject *module, PyObject *provider) {
  (void)module;
  if (!PyObject_TypeCheck(provider, provider_type)) {
    PyErr_SetString(PyExc_TypeError, "a Provider is wanted");
    return NULL;
  }
  const struct sqlite3_api_routines *api = ((ProviderObject *)provider)->api;
  int code = api->auto_extension(automatic_pointer());
  if (code) return error_raise(DIBS_NOMEM, NULL, 0, -1);
  Py_RETURN_NONE;
}

static PyObject *library_uninstall(PyObject *module, PyObject *provider) {
  (void)module;
  if (!PyObject_TypeCheck(provider, provider_type)) {
    PyErr_SetString(PyExc_TypeError, "a Provider is wanted");
    return NULL;
  }
  const struct sqlite3_api_routines *api = ((ProviderObject *)provider)->api;
  return PyBool_FromLong(api->cancel_auto_extension(automatic_pointer()));
}

/* ------------------------------------------------------------- connections */

/* Read memory that may not be there: the kernel looks for us. */
static bool memory_read(const void *from, void *to, size_t size) {
  int ends[2];
  if (pipe(ends)) return false;
  bool good = write(ends[1], from, size) == (ssize_t)size &&
              read(ends[0], to, size) == (ssize_t)size;
  close(ends[0]);
  close(ends[1]);
  return good;
}

static bool is_vfs_of(const struct sqlite3_api_routines *api, void *pointer) {
  sqlite3_vfs *vfs = api->vfs_find(NULL);
  while (vfs && (void *)vfs != pointer) vfs = vfs->pNext;
  return vfs != NULL;
}

/* The sqlite3 * of a connection of a library, if it is where it is expected. */
static PyObject *library_connection(PyObject *module, PyObject *arguments) {
  PyObject *connection, *provider;
  Py_ssize_t offset;
  void *pointer = NULL, *first = NULL;
  (void)module;
  if (!PyArg_ParseTuple(arguments, "OnO", &connection, &offset, &provider))
    return NULL;
  if (!PyObject_TypeCheck(provider, provider_type)) {
    PyErr_SetString(PyExc_TypeError, "a Provider is wanted");
    return NULL;
  }
  memcpy(&pointer, (const char *)connection + offset, sizeof pointer);
  if (!pointer || (uintptr_t)pointer % sizeof(void *) ||
      !memory_read(pointer, &first, sizeof first) ||
      !is_vfs_of(((ProviderObject *)provider)->api, first))
    Py_RETURN_NONE;
  return PyLong_FromVoidPtr(pointer);
}

/* Register the SQL functions on a connection. */
static PyObject *library_extend(PyObject *module, PyObject *arguments) {
  PyObject *address, *provider;
  int code;
  (void)module;
  if (!PyArg_ParseTuple(arguments, "OO", &address, &provider)) return NULL;
  if (!PyObject_TypeCheck(provider, provider_type)) {
    PyErr_SetString(PyExc_TypeError, "a Provider is wanted");
    return NULL;
  }
  struct sqlite3 *connection = connection_pointer(address);
  if (!connection) return NULL;
  const struct sqlite3_api_routines *api = ((ProviderObject *)provider)->api;
  char *message = NULL;
  CALL(code, dibs_extension_init(connection, &message, api));
  if (!code) Py_RETURN_NONE;
  error_raise(DIBS_LIBRARY, message, 0, -1);
  api->free(message);
  return NULL;
}

struct sqlite3 *connection_pointer(PyObject *address) {
  void *pointer = PyLong_AsVoidPtr(address);
  if (!pointer && !PyErr_Occurred())
    PyErr_SetString(PyExc_ValueError, "there is no connection at 0");
  return pointer;
}

/* -------------------------------------------------------------- in general */

static PyMethodDef library_methods[] = {
    {"automatic", library_automatic, METH_VARARGS,
     "automatic(path, on): whether the shared object at path (None: the "
     "program) has sqlite3_auto_extension(); it is called then."},
    {"install", library_install, METH_O,
     "install(provider): give dibs to each connection opened from now on."},
    {"uninstall", library_uninstall, METH_O, "uninstall(provider): no more."},
    {"seen", library_seen, METH_NOARGS,
     "seen(): provider and address of the connection that this thread opened, "
     "or loaded this file into, last; then None."},
    {"connection", library_connection, METH_VARARGS,
     "connection(object, offset, provider): its address, or None."},
    {"extend", library_extend, METH_VARARGS,
     "extend(address, provider): register the SQL functions."},
    {NULL, NULL, 0, NULL}};

static PyType_Slot provider_slots[] = {
    {Py_tp_doc, (void *)"An SQLite library of this process."},
    {Py_tp_getset, provider_members},
    {Py_tp_dealloc, (void *)provider_free},
    {0, NULL}};

static PyType_Spec provider_spec = {"dibs._dibs.Provider",
                                    sizeof(ProviderObject), 0,
                                    Py_TPFLAGS_DEFAULT, provider_slots};

static int instantiation_refuse(PyTypeObject *type) {
  return PyObject_SetAttrString((PyObject *)type, "__new__", Py_None);
}

int library_add(PyObject *module) {
  provider_type = type_add(module, &provider_spec);
  return !provider_type || instantiation_refuse(provider_type) ||
                 PyModule_AddFunctions(module, library_methods)
             ? -1
             : 0;
}
