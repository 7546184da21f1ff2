//! A pooler, as far as a replication connection meets it: it refuses one as `PgBouncer` does.

use kck::local::Postgres;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use super::{heals, says, shop};
use crate::support::{run, servers::own_postgres};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Passes connections on to the server, but for those that ask for replication. Gives its port.
async fn pooler(server: &Postgres) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let behind = server.port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, behind));
        }
    });
    port
}

async fn serve(mut client: TcpStream, behind: u16) -> std::io::Result<()> {
    let mut startup = message(&mut client).await?;
    if startup == SSL_REQUEST {
        client.write_all(b"N").await?;
        startup = message(&mut client).await?;
    }
    if startup.windows(12).any(|part| part == b"\0replication") {
        let fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: replication\0\0";
        client.write_all(b"E").await?;
        client.write_u32(4 + u32::try_from(fields.len()).unwrap()).await?;
        return client.write_all(fields).await;
    }
    let mut server = TcpStream::connect(("127.0.0.1", behind)).await?;
    server.write_all(&startup).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// A message without a tag, as connections begin with.
async fn message(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = client.read_u32().await?;
    let mut message = length.to_be_bytes().to_vec();
    message.resize(length.try_into().unwrap(), 0);
    client.read_exact(&mut message[4..]).await?;
    Ok(message)
}

#[test]
fn a_pooler_is_told_where_the_server_itself_is() {
    run(async {
        let mut server = own_postgres(&[]).await;
        let (_database, mut project) = shop(&server, "pooled").await;
        let port = pooler(&server).await;
        project.settings =
            project.settings.replace(&format!(":{}/", server.port()), &format!(":{port}/"));
        says(&project, "pooler").await;
        heals(&mut server, "pooled", &mut project).await;
        assert!(project.settings.contains("replication_url"), "{}", project.settings);
        project.start().await.stop().await;
    });
}
