//! Puts the secrets of a connection into a request wherever its placements say.

use ap_core::{capability::HttpError, connection::Placement};
use bytes::Bytes;
use http::{HeaderName, header::AUTHORIZATION};

use super::{
    credential::{CredentialUse, Place, PreparedRequest, RunConnection, refuse},
    place::{self, PlaceError},
};

impl RunConnection {
    /// Applies every placement.
    pub(super) fn place_all(
        &self,
        request: &mut PreparedRequest,
        uses: &mut Vec<CredentialUse>,
    ) -> Result<(), HttpError> {
        if self.connection.placements().is_empty() {
            return Err(refuse(format!(
                "connection `{}` has several secrets and no placement: declare where each may go",
                self.connection.name()
            )));
        }
        let placements = self.connection.placements();
        // Signatures last: they are over everything else.
        let (signing, placing): (Vec<_>, Vec<_>) = placements.iter().partition(|placement| placement.signs());
        for placement in placing.into_iter().chain(signing) {
            let place = match placement {
                signing if signing.signs() => {
                    // Not bound, not signed: what is signed could be of use elsewhere.
                    let used = self.used(request.url.origin(), Place::Signature)?;
                    self.sign(signing, request)?;
                    uses.push(used);
                    continue;
                }
                Placement::Basic => {
                    let value = place::basic_value(self.text("username")?, self.text("password")?);
                    self.place_header(request, AUTHORIZATION, value)?
                }
                Placement::Bearer { field } => {
                    let value = place::prefixed_value("Bearer ", self.text(field)?);
                    self.place_header(request, AUTHORIZATION, value)?
                }
                Placement::Header { name, field } => {
                    let header = HeaderName::from_bytes(name.as_bytes())
                        .map_err(|_| refuse(format!("`{name}` is no header name")))?;
                    let value = place::prefixed_value("", self.text(field)?);
                    self.place_header(request, header, value)?
                }
                Placement::Query { name, field } => {
                    self.place_query(request, name, field, uses)?;
                    Place::Query(name.clone())
                }
                Placement::Body { pointer, field } => {
                    let body = request.body.as_deref();
                    let placed = place::set_json_member(body, pointer, self.text(field)?);
                    let placed = placed.map_err(|error| self.cannot(&Place::Body(pointer.clone()), error))?;
                    request.body = Some(Bytes::from_owner(placed));
                    Place::Body(pointer.clone())
                }
                _ => return Err(refuse(format!("connection `{}` has an unknown placement", self.connection.name()))),
            };
            uses.push(self.used(request.url.origin(), place)?);
        }
        Ok(())
    }

    fn place_header(
        &self,
        request: &mut PreparedRequest,
        name: HeaderName,
        value: Result<http::HeaderValue, PlaceError>,
    ) -> Result<Place, HttpError> {
        let place = Place::Header(name.as_str().to_owned());
        let value = value.map_err(|error| self.cannot(&place, error))?;
        if request.headers.contains_key(&name) {
            return Err(self.cannot(&place, PlaceError::Occupied));
        }
        request.headers.insert(name, value);
        Ok(place)
    }

    fn place_query(
        &self,
        request: &mut PreparedRequest,
        name: &str,
        field: &str,
        uses: &[CredentialUse],
    ) -> Result<(), HttpError> {
        let query = request.url.as_url().query().unwrap_or_default();
        if query.split('&').any(|part| place::decoded_pair(part).0 == name) {
            return Err(self.cannot(&Place::Query(name.to_owned()), PlaceError::Occupied));
        }
        let secret = self.text(field)?;
        place::fits_query(uses, secret).map_err(|error| self.cannot(&Place::Query(name.to_owned()), error))?;
        let pair = place::encoded_pair(name, secret.as_bytes());
        let query = if query.is_empty() { pair } else { format!("{query}&{pair}") };
        request.url = request.url.clone().with_query(&query);
        Ok(())
    }
}
