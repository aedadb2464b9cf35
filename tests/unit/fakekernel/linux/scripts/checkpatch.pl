#!/usr/bin/perl
# As the real one with --terse: lines over 80 characters, and a patch that nobody has signed.
use strict;
my ($number, $signed, @remarks) = (0, 0);
while (<STDIN>) {
	$number++;
	chomp;
	die "the script is too old for this perl\n" if /BREAK THE SCRIPT/;
	$signed = 1 if /^Signed-off-by: /;
	push @remarks, "-:$number: WARNING: line over 80 characters" if /^\+[^+]/ && length > 81;
}
push @remarks, "-: ERROR: Missing Signed-off-by: line(s)" unless $signed;
print "$_\n" for @remarks;
print "total: some errors\n" if @remarks;
exit(@remarks ? 1 : 0);
