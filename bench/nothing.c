/* SPDX-License-Identifier: MIT */
/*
** nothing.c: a command that does nothing, and does it fast: linked statically,
** so that what is measured is the worker and not the dynamic linker.
*/
int main(void) {
  return 0;
}
