/* Compiled with each build. */
extern int md_init(void);

void start_kernel(void)
{
#ifdef CONFIG_MD
	md_init();
#endif
}
