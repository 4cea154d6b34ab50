/* SPDX-License-Identifier: MIT */
/*
** Includes the public header first and twice, and uses every macro of it that
** sets up a struct: what compiles here, as C11 and as C++11, needs nothing
** that a user would have to know to include.
*/
#include "dibs.h"

#include "dibs.h"

int header_check(void);

int header_check(void) {
  dibs_open_options open = DIBS_OPEN_OPTIONS_INIT;
  dibs_claim_options claim = DIBS_CLAIM_OPTIONS_INIT;
  dibs_list_options list = DIBS_LIST_OPTIONS_INIT;
  dibs_change_options change = DIBS_CHANGE_OPTIONS_INIT;

  return open.size && claim.size && list.size && change.size;
}
