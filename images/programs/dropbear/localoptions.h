/* The build host's musl has no libcrypt, so no password can be checked; none is wanted either. */
#define DROPBEAR_SVR_PASSWORD_AUTH 0
