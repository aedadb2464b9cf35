#define MD_VERSION 4
