#!/bin/sh
# Stocks the shop of lab02. Run as root in the guest while the lab is built.
set -eu

rm -f /var/www/html/index.html
# On both: some tools know only the first address of localhost.
sed -i 's/^Listen 80$/Listen 127.0.0.1:80\nListen [::1]:80/' /etc/apache2/ports.conf

mkdir -p /var/lib/shop/reports
rm -f /var/lib/shop/shop.db
sqlite3 /var/lib/shop/shop.db <<SQL
CREATE TABLE goods (name TEXT, price TEXT);
INSERT INTO goods VALUES ('Notebook', '3.50'), ('Pencil', '0.80'), ('Ruler', '1.20'), ('Globe', '29.00');
CREATE TABLE staff (login TEXT, password TEXT);
INSERT INTO staff VALUES ('mira', 'correct-horse'), ('admin', 'flag{never-glue-strings-into-sql}');
SQL
echo 'Three pencils, one globe.' >/var/lib/shop/reports/monday
echo 'Nothing but rulers. The key of the safe is in the safe again.' >/var/lib/shop/reports/tuesday
echo 'flag{what-is-removed-once-can-be-there-twice}' >/var/lib/shop/safe
