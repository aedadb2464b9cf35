#include <linux/md.h>

int md_init(void)
{
	int unused;

	return MD_VERSION;
}
